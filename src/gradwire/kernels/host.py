"""Loops over a float32 or float64 vector in the host's memory, by NumPy, whose partition and sort are vectorised.

Long vectors are read in blocks, so that magnitudes and masks stay in the cache and memory is read once.
"""

from __future__ import annotations

import math
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


def largest(size: Values, k: int) -> Places:
    """Where the k > 0 largest of magnitudes f[m] lie, increasing; of equals the first win."""
    least = np.partition(size, len(size) - k)[len(size) - k]
    places: Places = (size >= least).nonzero()[0]
    surplus = len(places) - k
    if surplus:
        ties: Places = (size[places] == least).nonzero()[0]
        places = np.delete(places, ties[len(ties) - surplus :])
    return places


def passing(a: Values, least: float) -> tuple[Places, Values]:
    """Where |a| >= least, increasing, and the magnitudes there. One read of a."""
    size, passed = np.empty(min(BLOCK, len(a)), a.dtype), np.empty(min(BLOCK, len(a)), np.bool_)
    places, sizes = list[Places](), list[Values]()
    for start in range(0, len(a), BLOCK):
        block = a[start : start + BLOCK]
        magnitudes = np.abs(block, out=size[: len(block)])
        inside: Places = np.greater_equal(magnitudes, least, out=passed[: len(block)]).nonzero()[0]
        sizes.append(magnitudes[inside])
        inside += start
        places.append(inside)
    return np.concatenate(places), np.concatenate(sizes)


def norm(a: Values) -> float:
    """L2 norm. Float32 squares are summed in float32 by rows of 1024, the rows in float64: within 1e-6 of the truth.

    Where a square may leave float32's range all is done again in float64.
    """
    if a.dtype == np.float32:
        with np.errstate(over="ignore"):
            total = _rowwise(a)
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
