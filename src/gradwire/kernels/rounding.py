"""Dense rounding to few bits, at random by `coins` or to signs: a definition of each, and its twin straight to bytes.

A twin serves a long float32 vector in the host's memory (`serves`), and gives the bytes that the definition's numbers
give when they are packed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu
from gradwire.kernels.packing import empty_bytes, nbytes, pack_flags, unpack_flags
from gradwire.kernels.uniforms import uniforms

MOST = 127
"""Levels on each side of zero of which a code takes a byte."""

TRITS = 0
"""The width that stands for five codes of three values a byte (wire/trits.py)."""

CODES = 256


def serves(x: Tensor) -> bool:
    """Whether the twins serve x[..., d]."""
    return compiled.reads(x, torch.float32, compiled.LONG)


def natural(x: Tensor, key: int) -> Tensor:
    """Finite f[..., k] -> u8[..., k + ceil(k / 8)]: exponents, and which are negative, -0.0 included."""
    if gpu.serve(x):
        return gpu.round_natural(x, key)
    if compiled.reads(x, torch.float32, compiled.SHORT):
        from gradwire.kernels import cpu

        out = empty_bytes(x, x.shape[-1] + nbytes(x.shape[-1], 1))
        cpu.natural(compiled.rows(x).view(np.int32), _word(key), compiled.rows(out))
        return out
    return torch.cat([exponents(x, key), pack_flags(torch.signbit(x).byte())], -1)


def exponents(x: Tensor, key: int) -> Tensor:
    """f[..., k] -> u8[..., k]: magnitudes rounded at random to 0 or 2^(code - 127)."""
    size = x.abs()
    mantissa, exponent = torch.frexp(size)  # size = mantissa * 2^exponent with mantissa in [1/2, 1)
    coin = uniforms(key, x.shape, torch.float64 if x.dtype == torch.float64 else torch.float32, x.device)
    code = exponent + 126 + (coin < 2 * mantissa - 1)
    code = torch.where(size < 2.0**-126, (coin < size * 2.0**126).int(), code)
    return code.clamp(max=254).to(torch.uint8)


def powers(wire: Tensor, k: int) -> Tensor:
    """What `natural` makes of k values, u8[..., k + ceil(k / 8)] -> f32[..., k]."""
    if gpu.serve(wire, torch.uint8):
        return gpu.read_natural(wire, k)
    if k >= compiled.SHORT and compiled.reads(wire, torch.uint8, 0):
        from gradwire.kernels import cpu

        out = _floats(wire, k)
        cpu.powers(compiled.rows(wire), compiled.rows(out).view(np.int32))
        return out
    negative = unpack_flags(wire[..., k:], k)
    return power(wire[..., :k]).mul(1.0 - 2.0 * negative)


def power(exponents: Tensor) -> Tensor:
    """u8[..., k] -> f32[..., k]: an exponent in the float's own field, an empty mantissa, is the power; 0 for 0."""
    return (exponents.int() << 23).view(torch.float32)


def shares(x: Tensor, scale: Tensor, s: int = 1) -> Tensor:
    """f[..., d], f32[..., 1] -> f64[..., d]: s |x| / scale in [0, s], and 0 where the scale is 0."""
    # No positive float32 is below 2^-149. What float64 holds beyond the largest float32 is clamped.
    return (x.abs().double() * (s / scale.double().clamp(min=2.0**-149))).clamp_(max=float(s))


def linear(x: Tensor, scale: Tensor, s: int, key: int) -> Tensor:
    """f[..., d], f32[..., 1] -> signed levels int64[..., d]: multiples of scale / s, rounded at random."""
    level = shares(x, scale, s).add_(uniforms(key, x.shape, torch.float64, x.device)).clamp_(max=float(s))
    return level.floor_().copysign_(x).long()


def geometric(x: Tensor, scale: Tensor, s: int, key: int) -> Tensor:
    """f[..., d], f32[..., 1] -> signed codes int64[..., d]: code k > 0 is 2^(k - s) times the scale, 0 is 0."""
    share, coin = shares(x, scale), uniforms(key, x.shape, torch.float64, x.device)
    mantissa, exponent = torch.frexp(share)  # share = mantissa * 2^exponent with mantissa in [1/2, 1)
    code = exponent + (s - 1) + (coin < 2 * mantissa - 1)
    lowest = 2.0 ** (1 - s)
    code = torch.where(share < lowest, coin < share / lowest, code)
    return code.copysign(x).long()


def packed(x: Tensor, scale: Tensor, s: int, key: int, width: int, binary: bool) -> Tensor:
    """What `linear` gives or, if `binary`, `geometric`, of an x that `serves` takes: u8[..., 4 + m].

    Four bytes are left for the scale; code level + s takes `width` <= 8 bits, or is one of five TRITS in a byte.
    """
    from gradwire.kernels import cpu

    d = x.shape[-1]
    out = empty_bytes(x, 4 + (nbytes(d, width) if width else (d + 4) // 5))
    steps = (1 if binary else s) / scale.double().clamp(min=2.0**-149).flatten()
    cpu.levels(compiled.rows(x), steps.numpy(), s, binary, _word(key), width, 4, compiled.rows(out))  # pyright: ignore
    return out


def look_up(wire: Tensor, head: int, width: int, table: Tensor, d: int) -> tuple[Tensor, int]:
    """Codes of `width` <= 8 bits or TRITS behind u8[..., head], contiguous -> f32[..., d], and the largest of them.

    table f32[..., c] holds every code's value; codes from c on get any. TRITS' largest is 255 if bytes are none.
    """
    from gradwire.kernels import cpu

    full = torch.nn.functional.pad(table, (0, CODES - table.shape[-1])).contiguous()
    out = _floats(wire, d)
    return out, int(cpu.look_up(compiled.rows(wire), head, width, compiled.rows(full), compiled.rows(out)))


def signs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of an x f32[..., d] that `serves` takes: u8[..., 4 + ceil(d / 8)], what is below zero, and |x|_1 f64[..., 1].

    Four bytes are left for the scale. The order of summation is its own: within 1e-12 of the sum.
    """
    from gradwire.kernels import cpu

    out, values = empty_bytes(x, 4 + nbytes(x.shape[-1], 1)), compiled.rows(x)
    sums = np.empty(len(values))
    cpu.signs(values, values.view(np.int32), 4, compiled.rows(out), sums)
    return out, torch.from_numpy(sums).view(*x.shape[:-1], 1)


def signed(wire: Tensor, scale: Tensor, d: int) -> Tensor:
    """u8[..., 4 + ceil(d / 8)], f32[..., 1] -> f32[..., d]: the scale, negative where a bit says so."""
    if d >= compiled.SHORT and compiled.reads(wire, torch.uint8, 0):
        from gradwire.kernels import cpu

        out = _floats(wire, d)
        cpu.signed(
            compiled.rows(wire), 4, compiled.rows(scale).ravel().view(np.int32), compiled.rows(out).view(np.int32)
        )
        return out
    return torch.where(unpack_flags(wire[..., 4:], d).bool(), -scale, scale)


def _floats(wire: Tensor, d: int) -> Tensor:
    return torch.from_numpy(np.empty((*wire.shape[:-1], d), np.float32))


def _word(key: int) -> np.uint64:
    return np.uint64(key % 2**64)
