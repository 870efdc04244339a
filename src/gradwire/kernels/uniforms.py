"""Uniform numbers from a 64-bit key and an index: the same on every device, in every version, for any split of calls.

Number i is the top 24 bits (float32) or 53 bits (float64) of SplitMix64's output i (splitmix.py). Rows [n, d] are
counted one after the other, in one stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, splitmix
from gradwire.kernels.kernel import Kernel, Twin

BITS = {torch.float32: 24, torch.float64: 53}
KINDS: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}
HOST = torch.device("cpu")


def _uniforms(
    key: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device = HOST
) -> Tensor:
    """Uniform f32[*shape] or f64[*shape] in [0, 1), multiples of 2^-24 or 2^-53."""
    draws = splitmix.stream(torch.tensor(key, device=device), math.prod(shape), BITS[dtype])
    return draws.to(dtype).mul_(2.0 ** -BITS[dtype]).view(*shape)


def _many(key: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device = HOST) -> bool:
    return math.prod(shape) >= compiled.LONG and device.type == "cpu" and compiled.warm_up()


def _by_numba(
    key: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device = HOST
) -> Tensor:
    from gradwire.kernels import cpu

    out: Any = np.empty(math.prod(shape), KINDS[dtype])
    if dtype == torch.float64:
        cpu.wide_uniforms(splitmix.word(key), 0, out)
    else:
        cpu.uniforms(splitmix.word(key), out)
    return torch.from_numpy(out.reshape(shape))


def _on_host(key: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device = HOST) -> bool:
    return device.type == "cpu"


def _by_numpy(
    key: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device = HOST
) -> Tensor:
    z = splitmix.words(key, math.prod(shape))
    z >>= np.uint64(64 - BITS[dtype])
    numbers = np.multiply(z, 2.0 ** -BITS[dtype], dtype=KINDS[dtype], casting="unsafe")
    return torch.from_numpy(numbers.reshape(shape))


uniforms = Kernel(_uniforms, cpu=(Twin("numba", _many, _by_numba), Twin("numpy", _on_host, _by_numpy)))
