"""Numba's loops (cpu/): when they serve, and how a tensor becomes an array. The first call worth it imports Numba."""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Pairs: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.int64]]
Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]

LONG = 1 << 13
"""Below this NumPy takes a fraction of a millisecond too."""

SHORT = 1 << 9
"""The same of packing a message's indices or values, for which plain torch makes a dozen passes."""

SCRATCH = 1 << 18
"""Keys for which a thread keeps memory, twice: 4 MiB; pages that were never needed are never touched."""

logger = logging.getLogger("gradwire")


@lru_cache(maxsize=1)
def warm_up() -> bool:
    """Load the compiled loops, or compile them, the first time on a machine; return whether there are any.

    Happens by itself before the first vector of 8192 elements or more. Call it before a clock starts. Nothing is
    compiled afterwards.
    """
    logger.info("loading kernels, which are compiled once")
    try:
        import_module("gradwire.kernels.cpu")
    except ImportError as error:
        logger.warning("%s: selecting takes several times as long as with Numba (pip install gradwire[cpu])", error)
        return False
    return True


def loops() -> str:
    """What runs the loops over every element on the CPU here, in words."""
    there = find_spec("numba") is not None
    return f"Numba {metadata.version('numba')}" if there else "plain torch and NumPy (no Numba)"


def warm_up_for(d: int, device: torch.device) -> None:
    """Load the compiled loops now if vectors of d elements on a device will need them, so that no step waits."""
    if device.type == "cpu" and d >= LONG:
        warm_up()


def long_vector(x: Tensor, *others: object, **named: object) -> bool:
    """Whether x is f32[d] as the loops read it, is long enough, and Numba is there."""
    return x.numel() >= LONG and x.ndim == 1 and long_rows(x)


def long_sum(x: Tensor) -> bool:
    """Whether x [d] is a sum as the loop that accumulates writes it: as a long vector, or bfloat16 instead."""
    if x.dtype != torch.bfloat16:
        return long_vector(x)
    return LONG <= x.numel() <= 1 << 32 and x.ndim == 1 and x.is_cpu and x.is_contiguous() and warm_up()


def long_rows(x: Tensor, *others: object, **named: object) -> bool:
    """The same of x f32[..., d], whose rows must lie one after the other."""
    fits = LONG <= x.numel() <= 1 << 32 and x.dtype == torch.float32 and x.is_cpu and x.is_contiguous()
    return fits and warm_up()


def reads(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether x is such a tensor in the host's memory, and Numba is there. Rows that lie apart will be copied."""
    return x.dtype == dtype and x.is_cpu and warm_up()


def in_all(rows: Tensor, count: int) -> int:
    """Elements of `count` for each row of a tensor [..., m]."""
    return count if rows.ndim == 1 else rows.shape[:-1].numel() * count


def vector(x: Tensor) -> Any:
    """A contiguous x as an array [d] of the same memory."""
    return x.detach().view(-1).numpy()  # pyright: ignore


def halves(x: Tensor) -> Any:
    """A contiguous bfloat16 x as the bits of its elements, u16[d] of the same memory: NumPy has no bfloat16."""
    return x.detach().view(torch.int16).view(-1).numpy().view(np.uint16)  # pyright: ignore


def rows(x: Tensor) -> Any:
    """x[..., m] as an array [rows, m]: a view of the same memory if that is contiguous."""
    return x.detach().contiguous().view(x.shape[:-1].numel(), x.shape[-1]).numpy()  # pyright: ignore


def empty(like: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """dtype[..., count], with anything in it, for the rows of a tensor in the host's memory."""
    # By NumPy, whose long arrays lie in large pages: to touch fresh ones costs a third of what it does elsewhere.
    return torch.from_numpy(np.empty((*like.shape[:-1], count), _DTYPES[dtype]))


_DTYPES: dict[torch.dtype, Any] = {torch.uint8: np.uint8, torch.int64: np.int64, torch.float32: np.float32}


class _Scratch(threading.local):
    """Memory that a thread keeps for small selections, for which fresh pages would cost as much as the search."""

    kept: Pairs | None = None

    def keys(self, count: int) -> Pairs:
        """i64[2, count] or more columns, with anything in it; the same again to the same thread up to SCRATCH."""
        if count > SCRATCH:
            return np.empty((2, count), np.int64)
        if self.kept is None:
            self.kept = np.empty((2, SCRATCH), np.int64)
        return self.kept


scratch = _Scratch()
