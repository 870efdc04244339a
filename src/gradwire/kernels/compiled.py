"""When Numba's loops (cpu/) serve, and how tensors become arrays. The first vector worth it imports Numba."""

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
"""The fewest elements for Numba's loops; below, NumPy also takes only a fraction of a millisecond."""

SHORT = 1 << 9
"""The fewest elements for packing a message's indices or values, for which plain torch makes a dozen passes."""

SCRATCH = 1 << 18
"""The number of keys in each of the two buffers that a thread keeps: 4 MiB together; unused pages are not touched."""

logger = logging.getLogger("gradwire")


@lru_cache(maxsize=1)
def warm_up() -> bool:
    """Load the compiled loops, or compile them the first time on a machine; return whether Numba is available.

    This happens automatically before the first vector of 8192 elements or more, and nothing is compiled afterwards.
    Call it before timing anything.
    """
    logger.info("loading kernels, which are compiled once")
    try:
        import_module("gradwire.kernels.cpu")
    except ImportError as error:
        logger.warning("%s: selecting takes several times as long as with Numba (pip install gradwire[cpu])", error)
        return False
    return True


def loops() -> str:
    """Name the library that runs the loops over every element on the CPU."""
    there = find_spec("numba") is not None
    return f"Numba {metadata.version('numba')}" if there else "plain torch and NumPy (no Numba)"


def warm_up_for(d: int, device: torch.device) -> None:
    """Load the compiled loops now if vectors of d elements on this device need them, so that no step waits."""
    if device.type == "cpu" and d >= LONG:
        warm_up()


def long_vector(x: Tensor, *others: object, **named: object) -> bool:
    """Whether x is a contiguous f32[d] on the CPU, long enough, and Numba is available."""
    return x.numel() >= LONG and x.ndim == 1 and long_rows(x)


def long_sum(x: Tensor) -> bool:
    """Whether the accumulating loop can write x[d]: as `long_vector`, but x may also be bfloat16."""
    if x.dtype != torch.bfloat16:
        return long_vector(x)
    return LONG <= x.numel() <= 1 << 32 and x.ndim == 1 and x.is_cpu and x.is_contiguous() and warm_up()


def long_rows(x: Tensor, *others: object, **named: object) -> bool:
    """Whether x is a contiguous f32[..., d] on the CPU, long enough in all, and Numba is available."""
    fits = LONG <= x.numel() <= 1 << 32 and x.dtype == torch.float32 and x.is_cpu and x.is_contiguous()
    return fits and warm_up()


def reads(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether x is a CPU tensor of this dtype, and Numba is available. Non-contiguous rows will be copied."""
    return x.dtype == dtype and x.is_cpu and warm_up()


def in_all(rows: Tensor, count: int) -> int:
    """Total number of elements if each row of a tensor [..., m] has `count`."""
    return count if rows.ndim == 1 else rows.shape[:-1].numel() * count


def vector(x: Tensor) -> Any:
    """View a contiguous x as an array [d] of the same memory."""
    return x.detach().view(-1).numpy()  # pyright: ignore


def halves(x: Tensor) -> Any:
    """View a contiguous bfloat16 x as its bits, u16[d] of the same memory, because NumPy has no bfloat16."""
    return x.detach().view(torch.int16).view(-1).numpy().view(np.uint16)  # pyright: ignore


def rows(x: Tensor) -> Any:
    """View x[..., m] as an array [rows, m] of the same memory, or copy it if it is not contiguous."""
    return x.detach().contiguous().view(x.shape[:-1].numel(), x.shape[-1]).numpy()  # pyright: ignore


def empty(like: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Allocate an uninitialised CPU tensor dtype[..., count] with the leading axes of `like`."""
    # By NumPy, which asks for huge pages for long arrays: touching fresh pages then takes a third of the time.
    return torch.from_numpy(np.empty((*like.shape[:-1], count), _DTYPES[dtype]))


_DTYPES: dict[torch.dtype, Any] = {torch.uint8: np.uint8, torch.int64: np.int64, torch.float32: np.float32}


class _Scratch(threading.local):
    """Buffers that a thread keeps for small selections, for which fresh pages would cost as much as the search."""

    kept: Pairs | None = None

    def keys(self, count: int) -> Pairs:
        """Uninitialised i64[2, >= count]; up to SCRATCH, a thread always gets the same buffer."""
        if count > SCRATCH:
            return np.empty((2, count), np.int64)
        if self.kept is None:
            self.kept = np.empty((2, SCRATCH), np.int64)
        return self.kept


scratch = _Scratch()
