"""Plain torch, short enough to be the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

# Private, but what torch's own gradient clipping stands on since 2.0: one kernel for all spans, where there is one.
_foreach_norm = torch._foreach_norm  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def topk(x: Tensor, k: int) -> Tensor:
    """Indices of the k largest magnitudes of finite f[..., d], increasing: int64[..., k]; of equals the first win."""
    if k == 0:
        return torch.empty((*x.shape[:-1], 0), dtype=torch.int64, device=x.device)
    size = x.abs()
    threshold = size.topk(k, sorted=False).values.amin(-1, keepdim=True)
    above, equal = size > threshold, size == threshold
    free = k - above.sum(-1, keepdim=True)
    kept = above | (equal & (equal.cumsum(-1) <= free))
    return kept.nonzero()[:, -1].view(*x.shape[:-1], k)


def segmented_topk(x: Tensor, spans: Sequence[tuple[int, int]], ks: Sequence[int]) -> Tensor:
    """Positions, in the spans (start, end) of f[d] laid end to end, of the ks[i] largest magnitudes of span i.

    int64[sum of ks], increasing; of equals in a span the first win. Spans may lie apart, in any order, and be empty.
    """
    parts, at = [torch.empty(0, dtype=torch.int64, device=x.device)], 0
    for (start, end), k in zip(spans, ks, strict=True):
        parts.append(topk(x[start:end], k) + at)
        at += end - start
    return torch.cat(parts)


def norms(x: Tensor, spans: Sequence[tuple[int, int]]) -> list[float]:
    """L2 norm of x[start:end] for each span of f[d], summed in float64 and read from the device all at once."""
    if not spans:
        return []
    parts = [x[start:end] for start, end in spans]
    return cast(list[float], torch.stack(_foreach_norm(parts, 2, torch.float64)).tolist())


def row_norms(x: Tensor, p: float = 2.0) -> Tensor:
    """p-norms of the rows of f[..., d], d > 0, in float64, where none overflows or vanishes: f64[..., 1]."""
    size = x.abs().double()
    peak = size.amax(-1, keepdim=True)
    # Powers of ratios to the peak neither overflow nor all underflow, whatever p is; the clamp keeps 0 / 0 away.
    unit = peak.clamp(min=torch.finfo(torch.float64).tiny)
    return cast(Tensor, torch.linalg.vector_norm(size / unit, p, -1, keepdim=True)).mul_(unit)


def indices_above(x: Tensor, threshold: float) -> Tensor:
    """Where magnitudes of f[d] reach a threshold: int64[m], increasing."""
    return (x.abs() >= threshold).nonzero().view(-1)


def scatter_add_(target: Tensor, indices: Tensor, values: Tensor, alpha: float = 1.0) -> Tensor:
    """target f[d] += alpha * values f[m] at indices int64[m], in place; of an index that comes twice in this order."""
    return target.scatter_add_(0, indices, values if alpha == 1.0 else values * alpha)


def copy_(target: Tensor, source: Tensor) -> bool:
    """Copy source f[...] to a target of its shape; tell whether all is finite."""
    target.copy_(source)
    return bool(finite(source.reshape(-1)))


def scatter_(target: Tensor, indices: Tensor, values: Tensor, ends: Sequence[int], starts: Sequence[int]) -> None:
    """Add values f[m] at indices int64[m] of a vector whose piece i lies at starts[i] of target, in place.

    Piece i ends where the next begins, at ends[i]; where its start is negative it lies elsewhere, and is passed over.
    """
    bounds, begins = (torch.tensor(numbers, device=target.device) for numbers in (ends, starts))
    piece = torch.bucketize(indices, bounds, right=True)
    shifts = begins - bounds + torch.diff(bounds, prepend=bounds.new_zeros(1))
    here = begins[piece] >= 0
    target.scatter_add_(-1, (indices + shifts[piece])[here], values[here].to(target.dtype))


def finite(x: Tensor) -> Tensor:
    """Tell whether all of f[..., d] is finite, in one pass and without a temporary of its size: bool[..., 1].

    A sum is finite only if all terms are, and the fastest pass there is. Where it is not, it may have overflowed.
    """
    sound = x.sum(-1, keepdim=True).isfinite()
    # To read the answer would be to wait for a GPU.
    if x.shape[-1] == 0 or (x.device.type == "cpu" and bool(sound.all())):
        return sound
    # Over the one axis of a single worker the plain call is four times faster than the one that names the axis.
    extremes = torch.aminmax(x) if x.ndim == 1 else torch.aminmax(x, dim=-1)
    return torch.stack(extremes, -1).isfinite().all(-1, keepdim=True)
