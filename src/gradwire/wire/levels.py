"""A scale and d integers (levels) between -s and s, as quantisers send them.

Wire: | scale: float32 | d codes of ceil(log2(2 s + 1)) bits: level + s (wire/bits.py) |

Level k stands for k scale / s, or, if levels are binary and k > 0, for 2^(k - s) scale. The ratio of a magnitude to the
scale is rounded at random to one of the two levels around it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.kernels import rounding, uniforms
from gradwire.kernels.kernel import Kernel, Twin
from gradwire.kernels.rounding import Meaning
from gradwire.wire import bits, values


def nbytes(s: int, d: int) -> int:
    """Return the bytes of a scale and d levels."""
    return 4 + bits.nbytes(d, _width(s))


def encode(scale: Tensor, levels: Tensor, s: int) -> Tensor:
    """f32[..., 1] and int64[..., d] with |level| <= s -> u8[..., nbytes(s, d)]."""
    return torch.cat([values.encode(scale, "float32"), bits.pack(levels + s, _width(s))], -1)


def decode(wire: Tensor, s: int, d: int) -> tuple[Tensor, Tensor]:
    """u8[..., nbytes(s, d)] -> the scale f32[..., 1] and the levels int64[..., d].

    Raises:
        ValueError: the bytes are not d levels between -s and s.
    """
    scale, codes = _scale(wire, s, d), bits.unpack(wire[..., 4:], _width(s), d)
    _check(_largest(codes), s, d)
    return scale, codes - s


def draw(x: Tensor, scale: Tensor, s: int, key: int, *, binary: bool = False) -> Tensor:
    """Finite f[..., d], f32[..., 1] -> u8[..., nbytes(s, d)], rounded at random to multiples or powers of two."""
    return draw_levels(x, scale, s, key, _width(s), binary)


def read(wire: Tensor, s: int, d: int, meaning: Meaning) -> Tensor:
    """u8[..., nbytes(s, d)] -> f32[..., d]: the values of the levels, by `meaning(scale, levels)`.

    Raises:
        ValueError: the bytes are not d levels between -s and s.
    """
    floats, largest = read_levels(wire, _scale(wire, s, d), s, _width(s), d, meaning)
    _check(largest, s, d)
    return floats


def decoded(x: Tensor, scale: Tensor, s: int, key: int, meaning: Meaning, *, binary: bool = False) -> Tensor:
    """f[..., d], f32[..., 1] -> `read` of `draw`, in x's dtype."""
    return decoded_levels(x, scale, s, key, binary, meaning).to(x.dtype)


def ratios(x: Tensor, scale: Tensor, s: int = 1) -> Tensor:
    """f[..., d], f32[..., 1] -> f64[..., d]: s |x| / scale in [0, s], and 0 where the scale is 0."""
    # The smallest positive float32 is 2^-149. float64 values beyond the largest float32 are clamped.
    return (x.abs().double() * (s / scale.double().clamp(min=2.0**-149))).clamp_(max=float(s))


def linear(x: Tensor, scale: Tensor, s: int, key: int) -> Tensor:
    """f[..., d], f32[..., 1] -> signed levels int64[..., d]: multiples of scale / s, rounded at random."""
    level = ratios(x, scale, s).add_(uniforms(key, x.shape, torch.float64, x.device)).clamp_(max=float(s))
    return level.floor_().copysign_(x).long()


def geometric(x: Tensor, scale: Tensor, s: int, key: int) -> Tensor:
    """f[..., d], f32[..., 1] -> signed levels int64[..., d]: level k > 0 is 2^(k - s) times the scale, 0 is 0."""
    ratio, drawn = ratios(x, scale), uniforms(key, x.shape, torch.float64, x.device)
    mantissa, exponent = torch.frexp(ratio)  # ratio = mantissa * 2^exponent with mantissa in [1/2, 1)
    level = exponent + (s - 1) + (drawn < 2 * mantissa - 1)
    lowest = 2.0 ** (1 - s)
    level = torch.where(ratio < lowest, drawn < ratio / lowest, level)
    return level.copysign(x).long()


def _width(s: int) -> int:
    """Return the bits of one of 2 s + 1 codes."""
    return (2 * s).bit_length()


def _scale(wire: Tensor, s: int, d: int) -> Tensor:
    """u8[..., nbytes(s, d)] -> f32[..., 1]."""
    if wire.shape[-1] != nbytes(s, d):
        raise ValueError(f"{d} levels between -{s} and {s} take {nbytes(s, d)} bytes, got {wire.shape[-1]}")
    return values.decode(wire[..., :4], "float32", 1)


def _check(largest: int, s: int, d: int) -> None:
    if largest > 2 * s:
        raise ValueError(f"the bytes are not {d} levels between -{s} and {s}")


def _largest(codes: Tensor) -> int:
    return int(codes.max()) if codes.numel() else 0


def _draw(x: Tensor, scale: Tensor, s: int, key: int, width: int, binary: bool) -> Tensor:
    """Finite f[..., d], f32[..., 1] -> u8[..., 4 + m]: the scale, and levels drawn at random."""
    return encode(scale, (geometric if binary else linear)(x, scale, s, key), s)


def _read(wire: Tensor, scale: Tensor, s: int, width: int, d: int, meaning: Meaning) -> tuple[Tensor, int]:
    """u8[..., 4 + m], f32[..., 1] -> the values of d levels f32[..., d], and the largest code."""
    codes = bits.unpack(wire[..., 4:], width, d)
    return meaning(scale, codes - s), _largest(codes)


def _decoded(x: Tensor, scale: Tensor, s: int, key: int, binary: bool, meaning: Meaning) -> Tensor:
    """f[..., d], f32[..., 1] -> the values of levels drawn at random, f32[..., d]."""
    return meaning(scale, (geometric if binary else linear)(x, scale, s, key))


def _by_bytes(x: Tensor, scale: Tensor, s: int, key: int, binary: bool, meaning: Meaning) -> Tensor:
    return read(draw(x, scale, s, key, binary=binary), s, x.shape[-1], meaning)


draw_levels = Kernel(_draw, cpu=rounding.draw)
read_levels = Kernel(_read, cpu=rounding.read)
decoded_levels = Kernel(_decoded, cpu=(Twin("numba", rounding.many, _by_bytes),))
