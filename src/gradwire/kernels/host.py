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
Places: TypeAlias = npt.NDArray[np.intp]

BLOCK = 1 << 16
"""Elements at a time: a float32 block and its mask lie in the second cache."""

WIDE = 1 << 12
"""Elements at a time that are widened: they lie in the first cache."""


def takes(x: Tensor) -> bool:
    """Whether these loops read such a tensor."""
    return x.ndim == 1 and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def values(x: Tensor) -> Values:
    """A view of the same memory."""
    return x.detach().numpy()  # pyright: ignore


def least(size: Values, k: int) -> np.floating[Any]:
    """The k-th largest of magnitudes f[m], k > 0."""
    return np.partition(size, len(size) - k)[len(size) - k]


def largest(size: Values, k: int) -> Places:
    """Where the k > 0 largest of magnitudes f[m] lie, increasing; of equals the first win."""
    border = least(size, k)
    places: Places = (size >= border).nonzero()[0]
    surplus = len(places) - k
    if surplus:
        ties: Places = (size[places] == border).nonzero()[0]
        places = np.delete(places, ties[len(ties) - surplus :])
    return places


def indices_above(a: Values, border: float) -> tuple[Places, Values]:
    """Where |a| >= border, increasing, and the magnitudes there. One read of a."""
    block = min(BLOCK, len(a))
    size, passed = np.empty(block, a.dtype), np.ones(block + block // 8, np.bool_)
    places, sizes = list[Places](), list[Values]()
    for start in range(0, len(a), block):
        values = a[start : start + block]
        magnitudes = np.abs(values, out=size[: len(values)])
        np.greater_equal(magnitudes, border, out=passed[block - len(values) : block])
        inside = _nonzero(passed[block - len(values) :], len(values))
        sizes.append(magnitudes[inside])
        inside += start
        places.append(inside)
    return np.concatenate(places), np.concatenate(sizes)


def _nonzero(passed: npt.NDArray[np.bool_], length: int) -> Places:
    """Where the first `length` are true. Behind them lie an eighth as many that are true.

    NumPy (2.4, array_nonzero) has a loop with branches for up to a tenth of trues and one without for more; from about
    a twentieth on the former is the slower one. Those behind decide for the latter.
    """
    count = np.count_nonzero(passed[:length])
    if length < 20 * count < 2 * length:
        return passed.nonzero()[0][:count]
    return passed[:length].nonzero()[0]


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
