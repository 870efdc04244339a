"""Norms of layers for their shares of k, which no scale of the gradient spoils."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.exchange.deft.indices import Span


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
