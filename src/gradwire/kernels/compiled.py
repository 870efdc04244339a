"""When Numba's loops (cpu.py) serve. Numba is imported by the first vector that is worth it, and never by `gradwire`."""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor

LONG = 1 << 13
"""Below this NumPy takes a fraction of a millisecond too."""

logger = logging.getLogger("gradwire")


def serve(x: Tensor) -> bool:
    """Whether x f32[d] lies as the loops read it, is long enough, and Numba is there.

    The answer depends on x alone, so that a run gives the same bits whatever ran before it.
    """
    fits = x.ndim == 1 and x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()
    return fits and LONG <= len(x) <= 1 << 32 and warm_up()


@lru_cache(maxsize=1)
def warm_up() -> bool:
    """Load the compiled loops; return whether there are any. The first time on a machine they are compiled.

    Happens by itself before the first vector of 8192 elements or more. Call it before a clock starts. Nothing is
    compiled afterwards.
    """
    logger.info("loading kernels, which are compiled once")
    try:
        import_module("gradwire.kernels.cpu")
    except ImportError as error:
        logger.warning("%s: selecting takes two to four times as long as with Numba (pip install gradwire[cpu])", error)
        return False
    return True
