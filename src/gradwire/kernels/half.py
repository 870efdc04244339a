"""Stochastic rounding from float32 to bfloat16: to one of the two neighbours, so that the expectation is the value.

bfloat16 is the upper half of a float32. 16 random bits are added to the bits of the float32 and the lower half is
dropped, so it carries into the upper half with exactly the right probability. Element i uses word i of a stream
(`splitmix.quarters`); rows [..., d] are counted one after the other. The error is below 2^-7 of the magnitude, or
2^-133 below the normal range. There is no Triton twin, so on a GPU the definition runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, splitmix
from gradwire.kernels.kernel import Kernel, Twin

KEPT = np.uint32(0xFFFF0000)
"""The bits of a float32 that a bfloat16 keeps."""


def _round_(target: Tensor, x: Tensor, key: int) -> Tensor:
    """Round x f[...] stochastically to target bf16[...], in place. NaN and inf are kept; overflow gives inf.

    float64 is rounded to the nearest float32 first.
    """
    x = x.float().contiguous()
    drawn = splitmix.quarters(key, x.numel(), x.device).view(x.shape).mul_(x.isfinite())
    halves = (x.view(torch.int32) + drawn) >> 16
    return target.copy_(halves.to(torch.int16).view(torch.bfloat16))


def _serves(target: Tensor, x: Tensor, key: int) -> bool:
    return target.is_cpu and x.is_cpu and target.is_contiguous() and target.shape == x.shape


def _long(target: Tensor, x: Tensor, key: int) -> bool:
    return compiled.long_rows(x) and _serves(target, x, key)


def _by_numba(target: Tensor, x: Tensor, key: int) -> Tensor:
    from gradwire.kernels import cpu

    cpu.round_half(compiled.vector(x), splitmix.word(key), compiled.halves(target))
    return target


def _by_numpy(target: Tensor, x: Tensor, key: int) -> Tensor:
    bits: Any = compiled.vector(x.float().contiguous()).view(np.uint32)
    drawn = splitmix.words(key, (len(bits) + 3) // 4).astype("<u8", copy=False).view("<u2")[: len(bits)]
    size = bits & np.uint32(0x7FFFFFFF)
    sums = np.add(bits, drawn, out=bits.copy(), where=size < np.uint32(0x7F800000))
    compiled.halves(target)[:] = sums >> np.uint32(16)
    return target


round_ = Kernel(_round_, cpu=(Twin("numba", _long, _by_numba), Twin("numpy", _serves, _by_numpy)))
