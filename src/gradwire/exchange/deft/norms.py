"""Norms of layers for their shares of k, which no scale of the gradient spoils."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.exchange.deft.indices import Span

FLOAT32_MAX = 3.4028234663852886e38


def relative_norms(x: Tensor, layers: Sequence[Span]) -> list[float]:
    """L2 norms of the layers of finite f[d], up to a common factor: shares depend on nothing else.

    The squares of float64 values may leave float64's range: then all values are scaled by the power of two that brings
    the largest one near 1, which rounds nothing. The squares of narrower values never do.
    """
    if x.dtype != torch.float64 or not layers:
        return kernels.norms(x, layers)
    exponent = math.frexp(float(x.abs().max()))[1]
    if abs(exponent) < 400:
        return kernels.norms(x, layers)
    half = -exponent // 2  # the whole factor may itself lie beyond the range
    return kernels.norms(x * 2.0**half * 2.0 ** (-exponent - half), layers)


def as_whole(value: float) -> int:
    """The 32 bits of a float32, 0 or more and finite after clamping, as a whole number that travels among others."""
    return int(struct.unpack("<i", struct.pack("<f", min(value, FLOAT32_MAX)))[0])


def from_whole(bits: int) -> float:
    """What `as_whole` was made of; -1 for the bits of anything else."""
    value = float(struct.unpack("<f", struct.pack("<I", bits & 0xFFFFFFFF))[0])
    return value if 0 <= value < math.inf else -1.0
