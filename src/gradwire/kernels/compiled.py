"""Numba's loops (cpu/), and when they serve. Numba is imported by the first call that is worth it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Pairs: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.int64]]
Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]

LONG = 1 << 13
"""Below this NumPy takes a fraction of a millisecond too."""

SHORT = 1 << 9
"""The same of packing a message's places or values, for which plain torch makes a dozen passes."""

DESK = 1 << 18
"""Keys for which a thread keeps memory, twice: 4 MiB, of which what was never needed is never touched."""

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


def warm_up_for(d: int, device: torch.device) -> None:
    """Do it now if vectors of d elements on this device will need the loops, or the first of them would wait."""
    if device.type == "cpu" and d >= LONG:
        warm_up()


def serve(x: Tensor) -> bool:
    """Whether x f32[d] lies as the loops read it, is long enough, and Numba is there.

    The answer depends on x alone, so that a run gives the same bits whatever ran before it.
    """
    fits = x.ndim == 1 and x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()
    return fits and LONG <= len(x) <= 1 << 32 and warm_up()


def reads(x: Tensor, dtype: torch.dtype, least: int) -> bool:
    """Whether x[..., m] is such a tensor in the host's memory, of so many elements, and Numba is there."""
    return x.numel() >= least and x.dtype == dtype and x.device.type == "cpu" and warm_up()


def rows(x: Tensor) -> Any:
    """x[..., m] as an array [rows, m]: a view of the same memory if that is contiguous."""
    return x.detach().contiguous().view(x.shape[:-1].numel(), x.shape[-1]).numpy()  # pyright: ignore


def draws(key: Tensor, d: int, k: int) -> bool:
    """Whether the loop draws k of d: one that keeps d bits is for a k that is not very small beside d."""
    return key.device.type == "cpu" and LONG <= d <= 4096 * k and k <= d and warm_up()


def segmented_topk(x: Tensor, spans: Sequence[tuple[int, int]], ks: Sequence[int]) -> Tensor:
    """`reference.segmented_topk` of an x that `serve` takes."""
    from gradwire.kernels import cpu

    if len(spans) != len(ks):
        raise ValueError(f"every span needs its k, got {len(spans)} spans and {len(ks)} ks")
    pairs, wanted = _pairs(spans), np.array(ks, np.int64)
    # By NumPy, whose long arrays lie in large pages: to touch fresh ones costs a third of what it does elsewhere.
    out, scratch = np.empty(sum(ks), np.int64), _desk.scratch(cpu.room(len(x), max(ks, default=0)))
    cpu.segmented_topk(x.detach().numpy().view(np.int32), pairs, wanted, out, scratch)  # pyright: ignore
    return torch.from_numpy(out)


def accumulate(x: Tensor, memory: Tensor, pieces: Sequence[Tensor], wanted: int) -> tuple[bool, Numbers]:
    """What `accumulated.accumulate` does of an x that `serve` takes, by contiguous pieces f32[m]: finite, and keys."""
    from gradwire.kernels import cpu

    target, held = x.numpy(), memory.numpy()  # pyright: ignore
    parts: list[Any] = [piece.detach().numpy() for piece in pieces]  # pyright: ignore
    ends = list(itertools.accumulate(map(len, parts)))
    border, sample = cpu.INFINITE, _desk.scratch(cpu.room(len(x), wanted))
    if 0 < 4 * wanted <= len(x) and len(x) >= cpu.SAMPLED:
        votes = 0
        for part, end in zip(parts, ends, strict=True):
            votes = cpu.poll(part, held, end - len(part), wanted, sample[0], votes)
        border = cpu.vote(len(x), wanted, sample[0], sample[1])
    keys, found, sound = np.empty(cpu.room(len(x), wanted) if wanted else 0, np.int64), 0, True
    for part, end in zip(parts, ends, strict=True):
        found, clean = cpu.move(part, held, target, end - len(part), np.int32(border), keys, found)
        sound &= bool(clean)
    return sound, keys[: max(0, found)]


def among(keys: Numbers, k: int) -> Tensor:
    """Places int64[k] of the k largest of i64 keys[m], 0 < k <= m, in their order."""
    from gradwire.kernels import cpu

    out = np.empty(k, np.int64)
    cpu.among(keys, out, _desk.scratch(len(keys))[0])
    return torch.from_numpy(out)


def norms(x: Tensor, spans: Sequence[tuple[int, int]]) -> list[float]:
    """`reference.norms` of an x that `serve` takes."""
    from gradwire.kernels import cpu

    return cpu.norms(x.detach().numpy(), _pairs(spans)).tolist()  # pyright: ignore


def support(key: Tensor, d: int, k: int) -> Tensor:
    """`support.support` of what `draws` takes."""
    from gradwire.kernels import cpu

    keys = key.reshape(-1).numpy().view(np.uint64)  # pyright: ignore
    return torch.from_numpy(cpu.support(keys, d, k)).view(*key.shape, k)


class _Desk(threading.local):
    """Memory that a thread keeps for small selections, for which fresh pages would cost as much as the search."""

    kept: Pairs | None = None

    def scratch(self, room: int) -> Pairs:
        """i64[2, room] or more columns, with anything in it; the same again to the same thread up to DESK."""
        if room > DESK:
            return np.empty((2, room), np.int64)
        if self.kept is None:
            self.kept = np.empty((2, DESK), np.int64)
        return self.kept


_desk = _Desk()


def _pairs(spans: Sequence[tuple[int, int]]) -> Pairs:
    return np.array(spans, np.int64).reshape(-1, 2)
