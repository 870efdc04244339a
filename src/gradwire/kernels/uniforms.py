"""Uniform numbers from a 64-bit key and a place: the same on every device, in every version, however a call is cut.

The coin of place i is the top of SplitMix64's output number i (splitmix.py), 24 bits of it as a float32 and 53 as a
float64. Of rows [n, d] the places are counted row by row, in one stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, splitmix

BITS = {torch.float32: 24, torch.float64: 53}


def uniforms(
    key: int,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """f32|f64[*shape] in [0, 1), multiples of 2^-24 or of 2^-53."""
    count = math.prod(shape)
    if (device if isinstance(device, torch.device) else torch.device(device)).type == "cpu":
        return torch.from_numpy(_on_host(key, count, dtype).reshape(shape))
    draws = splitmix.stream(torch.tensor(key, device=device), count, BITS[dtype])
    return draws.to(dtype).mul_(2.0 ** -BITS[dtype]).view(*shape)


def _on_host(key: int, count: int, dtype: torch.dtype) -> Any:
    wide = dtype == torch.float64
    if count < compiled.LONG or not compiled.warm_up():
        z = splitmix.words(key, count)
        z >>= np.uint64(64 - BITS[dtype])
        return np.multiply(z, 2.0 ** -BITS[dtype], dtype=np.float64 if wide else np.float32, casting="unsafe")
    from gradwire.kernels import cpu

    out: Any = np.empty(count, np.float64 if wide else np.float32)
    if wide:
        cpu.wide_coins(np.uint64(key % 2**64), 0, out)
    else:
        cpu.uniforms(np.uint64(key % 2**64), out)
    return out
