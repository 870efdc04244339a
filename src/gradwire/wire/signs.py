"""The mean magnitude and d signs, one bit each.

Wire: | mean |x|: float32, rounded to nearest | ceil(d / 8) bytes: 1 for values below zero, least bit first |
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.kernels import rounding
from gradwire.kernels.kernel import Kernel, Twin
from gradwire.wire import bits, values


def nbytes(d: int) -> int:
    """Return the bytes of a mean and d signs."""
    return 4 + bits.nbytes(d, 1)


def decode(wire: Tensor, d: int) -> Tensor:
    """u8[..., nbytes(d)] -> f32[..., d]."""
    return decode_signs(wire, values.decode(wire[..., :4], "float32", 1), d)


def _encode(x: Tensor) -> Tensor:
    """Finite f[..., d] -> u8[..., nbytes(d)]. Twins may sum in another order, to within 1e-12 of the sum."""
    return torch.cat([_mean(x).view(torch.uint8), bits.pack_flags((x < 0).byte())], -1)


def _decode(wire: Tensor, scale: Tensor, d: int) -> Tensor:
    """u8[..., nbytes(d)], f32[..., 1] -> f32[..., d]: minus the scale where a bit is set, else the scale."""
    return torch.where(bits.unpack_flags(wire[..., 4:], d).bool(), -scale, scale)


def _decoded(x: Tensor) -> Tensor:
    """Finite f[..., d] -> `decode` of `encode`, in x's dtype."""
    scale = _mean(x).to(x.dtype)
    return torch.where(x < 0, -scale, scale)


def _mean(x: Tensor) -> Tensor:
    """Finite f[..., d] -> the mean magnitude f32[..., 1]; 0 for an empty vector."""
    mean = x.abs().sum(-1, keepdim=True, dtype=torch.float64) / max(x.shape[-1], 1)
    return mean.clamp_(max=torch.finfo(torch.float32).max).float()


def _by_bytes(x: Tensor) -> Tensor:
    return decode(encode(x), x.shape[-1])


encode = Kernel(_encode, cpu=rounding.signs)
decode_signs = Kernel(_decode, cpu=rounding.signed)
decoded = Kernel(_decoded, cpu=(Twin("numba", rounding.many, _by_bytes),))
