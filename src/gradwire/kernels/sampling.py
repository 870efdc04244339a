"""Exact Top-k in a few passes by NumPy or torch: a sample sets a threshold, and only elements that reach it compete.

Many short spans are sorted together. The bits of a float32 magnitude order as the magnitude does, so span number and
bits form one integer, (span << 32) | bits, and after sorting the k-th largest of every span has a known index.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import host, reference
from gradwire.kernels.host import Indices, Values

SAMPLE = 4096
"""Sample size for a long vector; at most one element in 64 is sampled."""

LONG = 1 << 16
"""From this number of elements on, sampling costs less than it saves."""

SHORT = 512
"""Up to this number of elements, a span's own calls cost more than sorting it together with others."""


def on_host(x: Tensor, k: int) -> bool:
    """Whether `by_numpy` serves the arguments."""
    return host.reads(x) and k <= len(x)


def by_numpy(x: Tensor, k: int) -> Tensor:
    """Compute `reference.topk` of f[d]."""
    return torch.from_numpy(_largest(host.values(x), k))


def long(x: Tensor, k: int) -> bool:
    """Whether `by_torch` serves the arguments."""
    return x.ndim == 1 and _worthwhile(len(x), k)


def by_torch(x: Tensor, k: int) -> Tensor:
    """Compute `reference.topk` of a long f[d] of any dtype on any device."""
    passed = (x.abs() >= _threshold(x, k)).nonzero().view(-1)
    if passed.numel() < k:
        return reference.topk(x, k)
    return passed[reference.topk(x[passed], k)]


def spans_by_numpy(x: Tensor, spans: Sequence[tuple[int, int]], ks: Sequence[int]) -> Tensor:
    """Compute `reference.segmented_topk` of f[d]."""
    pieces = [host.values(x)[start:end] for start, end in spans]
    begins = list(itertools.accumulate(map(len, pieces), initial=0))
    short = [i for i, (piece, k) in enumerate(zip(pieces, ks, strict=True)) if 0 < k < len(piece) <= SHORT]
    found = _together([pieces[i] for i in short], [ks[i] for i in short]) if x.dtype == torch.float32 else []
    by_piece = dict(zip(short, found, strict=False))
    parts = [np.empty(0, np.int64)]
    for i, (piece, k) in enumerate(zip(pieces, ks, strict=True)):
        part = by_piece[i] if i in by_piece else _largest(piece, k)
        part += begins[i]
        parts.append(part)
    return torch.from_numpy(np.concatenate(parts))


def _largest(a: Values, k: int) -> Indices:
    if k in (0, len(a)):
        return np.arange(k)
    if _worthwhile(len(a), k):
        indices, sizes = host.indices_above(a, float(_threshold(torch.from_numpy(a), k)))
        if len(indices) >= k:
            return indices[host.largest(sizes, k)]
    return host.largest(np.abs(a), k)


def _together(pieces: Sequence[Values], ks: Sequence[int]) -> list[Indices]:
    """Top-k indices inside each float32 piece, 0 < k < its size; an empty list if ties make counting ambiguous."""
    if len(pieces) < 2:
        return []
    sizes, wanted = np.array([len(piece) for piece in pieces]), np.array(ks)
    ends = sizes.cumsum()
    keys = np.repeat(np.arange(len(pieces)) << 32, sizes)
    keys |= np.concatenate(pieces).view(np.int32) & np.int32(0x7FFFFFFF)
    thresholds = np.sort(keys)[ends - wanted]
    kept: Indices = (keys >= np.repeat(thresholds, sizes)).nonzero()[0]
    if len(kept) != wanted.sum():
        return []
    kept -= np.repeat(ends - sizes, wanted)
    bounds = itertools.pairwise([0, *wanted.cumsum().tolist()])
    return [kept[start:end] for start, end in bounds]


def _worthwhile(d: int, k: int) -> bool:
    return d >= LONG and 0 < 4 * k <= d


def _threshold(x: Tensor, k: int) -> Tensor | float:
    """Estimate a magnitude that most likely k elements or a few more reach."""
    sample = _sample(x).abs().flatten()
    expected = k / len(x) * len(sample)
    # Four standard deviations above the expectation, because too few elements would cost a second selection.
    wanted = min(len(sample), math.ceil(expected + 4 * math.sqrt(expected) + 4))
    if host.reads(sample):
        return float(host.kth_largest(host.values(sample), wanted))
    return sample.topk(wanted, sorted=False).values.amin()


def _sample(x: Tensor) -> Tensor:
    """View runs of eight adjacent elements all over f[d]; single elements would cost a cache line each."""
    runs = min(SAMPLE, len(x) // 64) // 8
    # An odd step, so that the sample does not stay in one column of a matrix.
    return x.unfold(0, 8, len(x) // runs | 1)
