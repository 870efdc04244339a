"""Norms of layers, by which k is divided, without overflow or underflow at any scale of the gradient."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.exchange.deft.indices import Span
from gradwire.kernels import Accumulated

FLOAT32_MAX = 3.4028234663852886e38


def relative_norms(x: Tensor | Accumulated, layers: Sequence[Span]) -> Sequence[float]:
    """Return the L2 norms of the layers of finite f[d], up to a common factor, because budgets depend on ratios only.

    An `Accumulated` may already contain them.

    The squares of float64 values may overflow or underflow. Then all values are first scaled by the power of two that
    brings the largest one near 1, which is exact. The squares of float32 values are safe in float64.

    Raises:
        ValueError: a value is not finite, for example because the sum of a gradient and a residual has overflowed.
    """
    if isinstance(x, Accumulated) and x.norms and x.layers == layers:
        return x.norms
    norms = _norms(kernels.values(x), layers)
    if not all(map(math.isfinite, norms)):
        raise ValueError(
            "deft divides k by the norms of layers, and a layer holds a value that is not finite: gradient and "
            "residual together have overflowed"
        )
    return norms


def _norms(x: Tensor, layers: Sequence[Span]) -> Sequence[float]:
    if x.dtype != torch.float64 or not layers:
        return kernels.norms(x, layers)
    exponent = math.frexp(float(x.abs().max()))[1]
    if abs(exponent) < 400:
        return kernels.norms(x, layers)
    half = -exponent // 2  # in two factors, because their product may overflow float64
    return kernels.norms(x * 2.0**half * 2.0 ** (-exponent - half), layers)


def as_whole(value: float) -> int:
    """Return the 32 bits of a value >= 0 as float32, clamped to be finite, as an integer for an integer message."""
    return int(struct.unpack("<i", struct.pack("<f", min(value, FLOAT32_MAX)))[0])


def from_whole(bits: int) -> float:
    """Invert `as_whole`; return -1 for bits that it never returns."""
    value = float(struct.unpack("<f", struct.pack("<I", bits & 0xFFFFFFFF))[0])
    return value if 0 <= value < math.inf else -1.0
