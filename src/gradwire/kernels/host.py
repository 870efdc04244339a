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
"""Elements at a time: a float32 block and its mask fit into the level-2 cache."""

WIDE = 1 << 12
"""Elements that are widened at a time: they fit into the level-1 cache."""


def reads(x: Tensor, *others: object, **named: object) -> bool:
    """Whether these loops can read x: a float32 or float64 vector [d] on the CPU."""
    return x.ndim == 1 and x.is_cpu and x.dtype in (torch.float32, torch.float64)


def values(x: Tensor) -> Values:
    """View a tensor as an array of the same memory."""
    return x.detach().numpy()  # pyright: ignore


def kth_largest(size: Values, k: int) -> np.floating[Any]:
    """The k-th largest of magnitudes f[m], k > 0."""
    return np.partition(size, len(size) - k)[len(size) - k]


def largest(size: Values, k: int) -> Indices:
    """Indices of the k > 0 largest of magnitudes f[m], increasing; among equals the first ones win."""
    threshold = kth_largest(size, k)
    indices: Indices = (size >= threshold).nonzero()[0]
    surplus = len(indices) - k
    if surplus:
        ties: Indices = (size[indices] == threshold).nonzero()[0]
        indices = np.delete(indices, ties[len(ties) - surplus :])
    return indices


def indices_above(a: Values, threshold: float) -> tuple[Indices, Values]:
    """Indices where |a| >= threshold, increasing, and the magnitudes there; reads a once."""
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
    """Indices of the true ones among the first `length` elements, behind which an eighth as many trues must follow.

    NumPy (2.4, array_nonzero) has a loop with branches for up to a tenth of trues, and one without for more. The former
    is the slower one already from about a twentieth on; the extra trues make NumPy choose the latter.
    """
    count = np.count_nonzero(reached[:length])
    if length < 20 * count < 2 * length:
        return reached.nonzero()[0][:count]
    return reached[:length].nonzero()[0]


def norms(a: Values, spans: Sequence[tuple[int, int]]) -> list[float]:
    """L2 norms of the spans of a, squared and summed in float64, where squares of float32 do not overflow."""
    wide = np.empty(WIDE)
    return [_norm(a[start:end], wide) for start, end in spans]


def _norm(a: Values, wide: npt.NDArray[np.float64]) -> float:
    """Compute an L2 norm block by block through the buffer `wide`, which stays in the cache."""
    squares = list[float]()
    for start in range(0, len(a), WIDE):
        block = wide[: min(WIDE, len(a) - start)]
        block[:] = a[start : start + WIDE]
        squares.append(float(np.dot(block, block)))
    return math.sqrt(math.fsum(squares))
