"""Definitions of kernels in short, plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

# Private, but torch's own gradient clipping has used it since 2.0: one launch for all spans, if the device has one.
_foreach_norm = torch._foreach_norm  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def topk(x: Tensor, k: int) -> Tensor:
    """Indices int64[..., k], increasing, of the k largest magnitudes of finite f[..., d]; of equals the first win."""
    if k == 0:
        return torch.empty((*x.shape[:-1], 0), dtype=torch.int64, device=x.device)
    size = x.abs()
    threshold = size.topk(k, sorted=False).values.amin(-1, keepdim=True)
    above, equal = size > threshold, size == threshold
    free = k - above.sum(-1, keepdim=True)
    kept = above | (equal & (equal.cumsum(-1) <= free))
    return kept.nonzero()[:, -1].view(*x.shape[:-1], k)


def segmented_topk(x: Tensor, spans: Sequence[tuple[int, int]], ks: Sequence[int]) -> Tensor:
    """Indices of the ks[i] largest magnitudes of span i, counted in the spans (start, end) of f[d] laid end to end.

    int64[sum of ks], increasing; among equals of a span the first ones win. Spans may be apart, in any order, or empty.
    """
    parts, at = [torch.empty(0, dtype=torch.int64, device=x.device)], 0
    for (start, end), k in zip(spans, ks, strict=True):
        parts.append(topk(x[start:end], k) + at)
        at += end - start
    return torch.cat(parts)


def norms(x: Tensor, spans: Sequence[tuple[int, int]]) -> list[float]:
    """L2 norm of x[start:end] for each span of f[d], summed in float64 and read from the device in one transfer."""
    if not spans:
        return []
    parts = [x[start:end] for start, end in spans]
    return cast(list[float], torch.stack(_foreach_norm(parts, 2, torch.float64)).tolist())


def row_norms(x: Tensor, p: float = 2.0) -> Tensor:
    """p-norms f64[..., 1] of the rows of f[..., d], d > 0, in float64, without overflow or underflow."""
    size = x.abs().double()
    peak = size.amax(-1, keepdim=True)
    # Powers of ratios to the peak neither overflow nor all underflow, for any p; the clamp avoids 0 / 0.
    unit = peak.clamp(min=torch.finfo(torch.float64).tiny)
    return cast(Tensor, torch.linalg.vector_norm(size / unit, p, -1, keepdim=True)).mul_(unit)


def indices_above(x: Tensor, threshold: float) -> Tensor:
    """Indices int64[m], increasing, at which magnitudes of f[d] reach a threshold."""
    return (x.abs() >= threshold).nonzero().view(-1)


def scatter_add_(target: Tensor, indices: Tensor, values: Tensor, alpha: float = 1.0) -> Tensor:
    """target f[d] += alpha * values f[m] at indices int64[m], in place; repeated indices add in their order."""
    return target.scatter_add_(0, indices, values if alpha == 1.0 else values * alpha)


def copy_(target: Tensor, source: Tensor) -> bool:
    """Copy source f[...] to a target of the same shape; return whether all values are finite."""
    target.copy_(source)
    return bool(finite(source.reshape(-1)))


def scatter_(target: Tensor, indices: Tensor, values: Tensor, ends: Sequence[int], starts: Sequence[int]) -> None:
    """Add values f[m] in place at indices int64[m] of a vector whose piece i lies at starts[i] in target.

    Piece i ends at index ends[i] of the vector, where the next one begins. Pieces with a negative start are not in
    target and are skipped.
    """
    bounds, begins = (torch.tensor(numbers, device=target.device) for numbers in (ends, starts))
    piece = torch.bucketize(indices, bounds, right=True)
    shifts = begins - bounds + torch.diff(bounds, prepend=bounds.new_zeros(1))
    here = begins[piece] >= 0
    target.scatter_add_(-1, (indices + shifts[piece])[here], values[here].to(target.dtype))


def finite(x: Tensor) -> Tensor:
    """Whether each row of f[..., d] is finite: bool[..., 1], in one pass and without a temporary of x's size.

    A sum, the fastest possible pass, is finite only if all terms are. If it is not, it may have overflowed, so the
    extremes decide.
    """
    sound = x.sum(-1, keepdim=True).isfinite()
    # On a GPU, reading the answer here would wait for the device.
    if x.shape[-1] == 0 or (x.device.type == "cpu" and bool(sound.all())):
        return sound
    # For one axis, the call without `dim` is four times faster than the one with it.
    extremes = torch.aminmax(x) if x.ndim == 1 else torch.aminmax(x, dim=-1)
    return torch.stack(extremes, -1).isfinite().all(-1, keepdim=True)
