"""Values rounded at random to a power of two: one exponent byte and one sign bit per value.

Wire: | k bytes: exponent e | ceil(k / 8) bytes: signs, least bit first |      value: 0 if e = 0, else 2^(e - 127)

|t| becomes one of the two powers of two around it, so that the expectation is |t| and the variance at most t^2 / 8
(Horváth et al. 2019, arXiv:1905.10988, Theorem 3). |t| < 2^-126, below the normal range of float32, becomes 0 or
2^-126, still without bias, and |t| > 2^127 becomes 2^127.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.kernels import rounding, uniforms
from gradwire.kernels.kernel import Kernel, Twin
from gradwire.wire import bits


def nbytes(k: int) -> int:
    """Return the bytes of k values."""
    return k + bits.nbytes(k, 1)


def exponents(x: Tensor, key: int) -> Tensor:
    """f[..., k] -> u8[..., k]: magnitudes rounded at random to 0 or 2^(code - 127)."""
    size = x.abs()
    mantissa, exponent = torch.frexp(size)  # size = mantissa * 2^exponent with mantissa in [1/2, 1)
    drawn = uniforms(key, x.shape, torch.float64 if x.dtype == torch.float64 else torch.float32, x.device)
    code = exponent + 126 + (drawn < 2 * mantissa - 1)
    code = torch.where(size < 2.0**-126, (drawn < size * 2.0**126).int(), code)
    return code.clamp(max=254).to(torch.uint8)


def _encode(x: Tensor, key: int) -> Tensor:
    """Finite f[..., k] -> u8[..., nbytes(k)]: exponents, and sign bits, set for -0.0 too."""
    return torch.cat([exponents(x, key), bits.pack_flags(torch.signbit(x).byte())], -1)


def _decode(wire: Tensor, k: int) -> Tensor:
    """u8[..., nbytes(k)] -> f32[..., k]."""
    negative = bits.unpack_flags(wire[..., k:], k)
    return _power(wire[..., :k]).mul(1.0 - 2.0 * negative)


def _decoded(x: Tensor, key: int) -> Tensor:
    """f[..., k] -> `decode` of `encode`, in x's dtype."""
    return _power(exponents(x, key)).copysign_(x).to(x.dtype)


def _power(exponents: Tensor) -> Tensor:
    """Exponents u8[..., k] -> powers of two f32[..., k], 0 for 0: the exponent field of a float32 with mantissa 0."""
    return (exponents.int() << 23).view(torch.float32)


def _by_bytes(x: Tensor, key: int) -> Tensor:
    return decode(encode(x, key), x.shape[-1])


encode = Kernel(_encode, cpu=rounding.natural, gpu=rounding.natural_on_gpu)
decode = Kernel(_decode, cpu=rounding.powers, gpu=rounding.powers_on_gpu)
decoded = Kernel(_decoded, cpu=(Twin("numba", rounding.many, _by_bytes),))
