"""A scale and d whole numbers between -s and s, as quantisers send them.

Wire: | scale: float32 | d codes of ceil(log2(2 s + 1)) bits: level + s (wire/bits.py) |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradwire.kernels import compiled, rounding
from gradwire.wire import bits, values


def nbytes(s: int, d: int) -> int:
    """Bytes that a scale and d levels take."""
    return 4 + bits.nbytes(d, _width(s))


def encode(scale: Tensor, levels: Tensor, s: int) -> Tensor:
    """f32[..., 1] and int64[..., d] with |level| <= s -> u8[..., nbytes(s, d)]."""
    codes = bits.pack(levels + s, _width(s))
    return torch.cat([values.encode(scale, "float32"), codes], -1)


def decode(wire: Tensor, s: int, d: int) -> tuple[Tensor, Tensor]:
    """u8[..., nbytes(s, d)] -> the scale f32[..., 1] and the levels int64[..., d].

    Raises:
        ValueError: the bytes are not d levels between -s and s.
    """
    if wire.shape[-1] != nbytes(s, d):
        raise ValueError(f"{d} levels between -{s} and {s} take {nbytes(s, d)} bytes, got {wire.shape[-1]}")
    levels = bits.unpack(wire[..., 4:], _width(s), d) - s
    if bool((levels > s).any()):
        raise ValueError(f"the bytes are not {d} levels between -{s} and {s}")
    return values.decode(wire[..., :4], "float32", 1), levels


def draw(x: Tensor, scale: Tensor, s: int, key: int, *, binary: bool = False) -> Tensor:
    """Finite f[..., d], f32[..., 1] -> u8[..., nbytes(s, d)], rounded at random to multiples or powers of two."""
    if s <= rounding.MOST and rounding.serves(x):
        wire = rounding.packed(x, scale, s, key, _width(s), binary)
        wire[..., :4] = values.encode(scale, "float32")
        return wire
    return encode(scale, (rounding.geometric if binary else rounding.linear)(x, scale, s, key), s)


def read(wire: Tensor, s: int, d: int, meaning: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """u8[..., nbytes(s, d)] -> f32[..., d]: meaning(scale f32[..., 1], levels int64[..., d]), element by element.

    Raises:
        ValueError: the bytes are not d levels between -s and s.
    """
    if s > rounding.MOST or d < compiled.LONG or not compiled.reads(wire, torch.uint8, nbytes(s, d)):
        return meaning(*decode(wire, s, d))
    if wire.shape[-1] != nbytes(s, d):
        raise ValueError(f"{d} levels between -{s} and {s} take {nbytes(s, d)} bytes, got {wire.shape[-1]}")
    every = torch.arange(-s, s + 1).expand(*wire.shape[:-1], -1)
    floats, largest = rounding.look_up(
        wire, 4, _width(s), meaning(values.decode(wire[..., :4], "float32", 1), every), d
    )
    if largest > 2 * s:
        raise ValueError(f"the bytes are not {d} levels between -{s} and {s}")
    return floats


def _width(s: int) -> int:
    """Bits that tell 2 s + 1 codes apart."""
    return (2 * s).bit_length()
