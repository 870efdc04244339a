"""Exact Top-k in a few passes over memory: guess a threshold from a sample, select among the few that pass it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu, host, reference
from gradwire.kernels.accumulated import Accumulated
from gradwire.kernels.host import Places, Values

SAMPLE = 4096
"""Elements of a long vector that vote on the threshold; of a shorter one, one in 64."""

LONG = 1 << 16
"""From here on sampling costs less than it saves."""


def topk(x: Tensor | Accumulated, k: int) -> Tensor:
    """Do what `reference.topk` does. On a long vector most elements are compared once and never sorted.

    Of an accumulated vector not even that, if its k largest elements were collected on the way.
    """
    if not isinstance(x, Accumulated):
        return _top(x, k)
    indices = x.topk(k)
    return _top(x.values, k) if indices is None else indices


def _top(x: Tensor, k: int) -> Tensor:
    if gpu.serve(x):
        return gpu.segmented_topk(x, [(0, len(x))], [k])
    if compiled.serve(x):
        return compiled.segmented_topk(x, [(0, len(x))], [k])
    if host.takes(x) and k <= len(x):
        return torch.from_numpy(top_on_host(host.values(x), k))
    if x.ndim != 1 or not _worthwhile(len(x), k):
        return reference.topk(x, k)
    passed = (x.abs() >= _guess(x, k)).nonzero().view(-1)
    if passed.numel() < k:
        return reference.topk(x, k)
    return passed[reference.topk(x[passed], k)]


def top_on_host(a: Values, k: int) -> Places:
    """The same of what `host.takes`."""
    if k in (0, len(a)):
        return np.arange(k)
    if _worthwhile(len(a), k):
        places, sizes = host.indices_above(a, float(_guess(torch.from_numpy(a), k)))
        if len(places) >= k:
            return places[host.largest(sizes, k)]
    return host.largest(np.abs(a), k)


def _worthwhile(d: int, k: int) -> bool:
    return d >= LONG and 0 < 4 * k <= d


def _guess(x: Tensor, k: int) -> Tensor | float:
    """A magnitude that k elements or a few more reach, most likely."""
    sample = _sample(x).abs().flatten()
    expected = k / len(x) * len(sample)
    # Four standard deviations more than expected: too few would cost a second selection.
    wanted = min(len(sample), math.ceil(expected + 4 * math.sqrt(expected) + 4))
    if host.takes(sample):
        return float(host.least(host.values(sample), wanted))
    return sample.topk(wanted, sorted=False).values.amin()


def _sample(x: Tensor) -> Tensor:
    """A view of runs of eight neighbours all over f[d]: one by one each would cost a cache line of its own."""
    runs = min(SAMPLE, len(x) // 64) // 8
    # An odd step, so that the sample does not walk down one column of a matrix.
    return x.unfold(0, 8, len(x) // runs | 1)
