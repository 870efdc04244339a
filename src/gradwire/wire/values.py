"""Values on the wire, in one of four formats. All numbers are little-endian.

float64   | k x 8 bytes |
float32   | k x 4 bytes |
bfloat16  | k x 2 bytes |    rounded to nearest even; what is beyond the largest bfloat16 is clamped to it
natural   | k bytes: exponent e | ceil(k / 8) bytes: signs, least bit first |   value: 0 if e = 0, else 2^(e - 127)

Natural rounds |t| at random to one of the two powers of two around it, so that the mean is |t| and the variance at most
t^2 / 8 (Horváth et al. 2019, arXiv:1905.10988, Theorem 3). Outside the normal float32 range: |t| < 2^-126 becomes 0 or
2^-126, unbiased still, and |t| > 2^127 becomes 2^127.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from gradwire.layout import Turn
from gradwire.wire import bits

Format: TypeAlias = Literal["bfloat16", "float32", "float64", "natural"]

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}

OMEGA: dict[str, float | None] = {"float64": 0.0, "float32": 0.0, "bfloat16": None, "natural": 1 / 8}
"""Relative variance, for the unbiased formats; float32 and float64 count as exact."""

DELTA: dict[str, float] = {"float64": 1.0, "float32": 1.0, "bfloat16": 1 - 2.0**-18, "natural": 7 / 8}
"""Contraction: half a unit in the last of bfloat16's 8 bits is 2^-9 of the value."""


def check(name: str) -> None:
    """Refuse a format that does not exist."""
    if name not in get_args(Format):
        raise ValueError(f"values must be one of {', '.join(get_args(Format))}, got {name!r}")


def nbytes(name: Format, k: int) -> int:
    """Bytes that k values take."""
    return k + bits.nbytes(k, 1) if name == "natural" else k * _DTYPES[name].itemsize


def encode(x: Tensor, name: Format, rng: torch.Generator | None = None) -> Tensor:
    """f[..., k], finite -> u8[..., nbytes(name, k)]; only `natural` draws from `rng`, which it needs."""
    if name == "natural":
        return torch.cat([_exponents(x, rng), bits.pack_flags(torch.signbit(x).byte())], -1)
    dtype, limit = _range(name, x.dtype)
    return x.clamp(-limit, limit).to(dtype).contiguous().view(torch.uint8)


def decode(wire: Tensor, name: Format, k: int) -> Tensor:
    """u8[..., nbytes(name, k)] -> f[..., k], float64 for `float64`, else float32."""
    if wire.shape[-1] != nbytes(name, k):
        raise ValueError(f"{k} values as {name} take {nbytes(name, k)} bytes, got {wire.shape[-1]}")
    if name == "natural":
        negative = bits.unpack_flags(wire[..., k:], k)
        return _powers(wire[..., :k]).mul(1.0 - 2.0 * negative)
    # Into a new tensor, because a slice of a larger message need not be aligned for the wider dtype.
    values = torch.empty((*wire.shape[:-1], k), dtype=_DTYPES[name], device=wire.device)
    values.view(torch.uint8).copy_(wire)
    return values if name == "float64" else values.float()


def said(x: Tensor, name: Format, turn: Turn) -> Tensor:
    """f[..., k] -> the same dtype, newly made: what a peer decodes of values in a format, without the bytes between."""
    if name == "natural":
        return _powers(_exponents(x, turn.rng(shared=False, device=x.device))).copysign_(x).to(x.dtype)
    dtype, limit = _range(name, x.dtype)
    values = x.clamp(-limit, limit)
    return values if dtype == x.dtype else values.to(dtype).to(x.dtype)


@lru_cache
def _range(name: Format, source: torch.dtype) -> tuple[torch.dtype, float]:
    """The dtype of a format, and the largest value that both it and the source can hold."""
    dtype = _DTYPES[name]
    return dtype, min(torch.finfo(dtype).max, torch.finfo(source).max)


def _powers(exponents: Tensor) -> Tensor:
    """u8[..., k] -> f32[..., k]: an exponent in the float's own field, an empty mantissa, is the power; 0 for 0."""
    return (exponents.int() << 23).view(torch.float32)


def _exponents(x: Tensor, rng: torch.Generator | None) -> Tensor:
    size = x.abs()
    mantissa, exponent = torch.frexp(size)  # size = mantissa * 2^exponent with mantissa in [1/2, 1)
    noise = torch.rand(x.shape, generator=rng, device=x.device, dtype=x.dtype)
    code = exponent + 126 + (noise < 2 * mantissa - 1)
    code = torch.where(size < 2.0**-126, (noise < size * 2.0**126).int(), code)
    return code.clamp(max=254).to(torch.uint8)
