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

ROW = 1024
"""Float32 squares that are summed in float32 before float64 takes over."""


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


def passing(a: Values, border: float) -> tuple[Places, Values]:
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
    """L2 norms of the spans of a. Float32 squares are summed in float32 by rows of 1024, the rows in float64.

    That is within 1e-6 of the truth. Where a square may leave float32's range all is done again in float64.
    """
    # An overflow is noticed below; asked once, for asking costs as much as a short norm.
    with np.errstate(over="ignore"):
        return [_norm(a[start:end]) for start, end in spans]


def _norm(a: Values) -> float:
    if a.dtype == np.float32:
        total = _rowwise(a) if len(a) >= ROW else _square(a)
        # What underflows below is less than 1e-38 an element: nothing beside 1e-20, whatever the length.
        if 1e-20 < total < math.inf:
            return math.sqrt(total)
    return math.sqrt(math.fsum(_square(a[at : at + 8 * ROW].astype(np.float64)) for at in range(0, len(a), 8 * ROW)))


def _rowwise(a: Values) -> float:
    rows = a[: len(a) // ROW * ROW].reshape(-1, ROW)
    # A product of a row and itself for each row: one call of the vectorised dot product per row, none from Python.
    squares = np.matmul(rows[:, None, :], rows[:, :, None]) if len(rows) else rows
    return float(squares.sum(dtype=np.float64)) + _square(a[rows.size :])


def _square(a: Values) -> float:
    return float(np.dot(a, a))
