"""Loops over a float32 or float64 vector in the host's memory, by NumPy, whose partition and sort are vectorised.

Long vectors are read in blocks, so that magnitudes and masks stay in the cache and memory is read once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Values: TypeAlias = npt.NDArray[np.floating[Any]]
Indices: TypeAlias = npt.NDArray[np.intp]

BLOCK = 1 << 16
"""Elements at a time: a float32 block and its mask lie in the second cache."""

WIDE = 1 << 12
"""Elements at a time that are widened: they lie in the first cache."""


def reads(x: Tensor, *others: object, **named: object) -> bool:
    """Whether these loops read such a tensor."""
    return x.ndim == 1 and x.is_cpu and x.dtype in (torch.float32, torch.float64)


def values(x: Tensor) -> Values:
    """A view of the same memory."""
    return x.detach().numpy()  # pyright: ignore


def kth_largest(size: Values, k: int) -> np.floating[Any]:
    """The k-th largest of magnitudes f[m], k > 0."""
    return np.partition(size, len(size) - k)[len(size) - k]


def largest(size: Values, k: int) -> Indices:
    """Where the k > 0 largest of magnitudes f[m] lie, increasing; of equals the first win."""
    threshold = kth_largest(size, k)
    indices: Indices = (size >= threshold).nonzero()[0]
    surplus = len(indices) - k
    if surplus:
        ties: Indices = (size[indices] == threshold).nonzero()[0]
        indices = np.delete(indices, ties[len(ties) - surplus :])
    return indices


def indices_above(a: Values, threshold: float) -> tuple[Indices, Values]:
    """Where |a| >= threshold, increasing, and the magnitudes there. One read of a."""
    block = min(BLOCK, len(a))
    size, reached = np.empty(block, a.dtype), np.ones(block + block // 8, np.bool_)
    indices, sizes = list[Indices](), list[Values]()
    for start in range(0, len(a), block):
        values = a[start : start + block]
        magnitudes = np.abs(values, out=size[: len(values)])
        np.greater_equal(magnitudes, threshold, out=reached[block - len(values) : block])
        inside = _nonzero(reached[block - len(values) :], len(values))
        sizes.append(magnitudes[inside])
        inside += start
        indices.append(inside)
    return np.concatenate(indices), np.concatenate(sizes)


def _nonzero(reached: npt.NDArray[np.bool_], length: int) -> Indices:
    """Where the first `length` are true. Behind them lie an eighth as many that are true.

    NumPy (2.4, array_nonzero) has a loop with branches for up to a tenth of trues and one without for more; from about
    a twentieth on the former is the slower one. Those behind decide for the latter.
    """
    count = np.count_nonzero(reached[:length])
    if length < 20 * count < 2 * length:
        return reached.nonzero()[0][:count]
    return reached[:length].nonzero()[0]


def norms(a: Values, spans: Sequence[tuple[int, int]]) -> list[float]:
    """L2 norms of the spans of a, squared and summed in float64, where no float32's square overflows."""
    wide = np.empty(WIDE)
    return [_norm(a[start:end], wide) for start, end in spans]


def _norm(a: Values, wide: npt.NDArray[np.float64]) -> float:
    """Block by block through `wide`, which stays in the cache."""
    squares = list[float]()
    for start in range(0, len(a), WIDE):
        block = wide[: min(WIDE, len(a) - start)]
        block[:] = a[start : start + WIDE]
        squares.append(float(np.dot(block, block)))
    return math.sqrt(math.fsum(squares))
