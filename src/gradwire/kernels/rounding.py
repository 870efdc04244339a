"""Twins that quantise directly to bytes, and that decode such bytes, in the formats that wire/ defines.

They serve float32 in the host's memory with rows of any length; only powers of two also have GPU loops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu, splitmix
from gradwire.kernels.kernel import Twin
from gradwire.kernels.packing import nbytes

FIVES = 0
"""A special width: five ternary codes in a byte (wire/trits.py)."""

MAX_LEVELS = 127
"""The most levels on each side of zero for which a code fits into one byte."""

Meaning: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A function from a scale f32[..., 1] and levels int64[..., m] to the levels' values f32[..., m], elementwise."""


# Powers of two (wire/natural.py)


def _floats_on_gpu(x: Tensor, key: int) -> bool:
    return gpu.serves(x)


def _some(x: Tensor, key: int) -> bool:
    return x.numel() >= compiled.SHORT and compiled.reads(x, torch.float32)


def _natural_by_numba(x: Tensor, key: int) -> Tensor:
    from gradwire.kernels import cpu

    out = compiled.empty(x, x.shape[-1] + nbytes(x.shape[-1], 1), torch.uint8)
    cpu.natural(compiled.rows(x).view(np.int32), splitmix.word(key), compiled.rows(out))
    return out


natural = (Twin("numba", _some, _natural_by_numba),)
natural_on_gpu = (Twin("triton", _floats_on_gpu, gpu.round_natural),)


def _bytes_on_gpu(wire: Tensor, k: int) -> bool:
    return gpu.serves(wire, torch.uint8)


def _makes_some(wire: Tensor, k: int) -> bool:
    return compiled.in_all(wire, k) >= compiled.SHORT and compiled.reads(wire, torch.uint8)


def _powers_by_numba(wire: Tensor, k: int) -> Tensor:
    from gradwire.kernels import cpu

    out = compiled.empty(wire, k, torch.float32)
    cpu.powers(compiled.rows(wire), compiled.rows(out).view(np.int32))
    return out


powers = (Twin("numba", _makes_some, _powers_by_numba),)
powers_on_gpu = (Twin("triton", _bytes_on_gpu, gpu.read_natural),)


def many(x: Tensor, *others: object) -> bool:
    """Whether x f32[..., d] is long enough that encoding and decoding is faster even if only values are needed."""
    return x.numel() >= compiled.LONG and compiled.reads(x, torch.float32)


# Levels of a scale (wire/levels.py, wire/trits.py)


def _codes_of_a_byte(x: Tensor, scale: Tensor, s: int, key: int, width: int, binary: bool) -> bool:
    return s <= MAX_LEVELS and many(x)


def _draw_by_numba(x: Tensor, scale: Tensor, s: int, key: int, width: int, binary: bool) -> Tensor:
    from gradwire.kernels import cpu

    d = x.shape[-1]
    out = compiled.empty(x, 4 + (nbytes(d, width) if width != FIVES else (d + 4) // 5), torch.uint8)
    out[..., :4] = scale.contiguous().view(torch.uint8)
    steps = (1 if binary else s) / scale.double().clamp(min=2.0**-149).flatten()
    cpu.levels(
        compiled.rows(x),
        steps.numpy(),  # pyright: ignore
        s,
        binary,
        splitmix.word(key),
        width,
        4,
        compiled.rows(out),
    )
    return out


draw = (Twin("numba", _codes_of_a_byte, _draw_by_numba),)


def _makes_many(wire: Tensor, scale: Tensor, s: int, width: int, d: int, meaning: Meaning) -> bool:
    return s <= MAX_LEVELS and compiled.in_all(wire, d) >= compiled.LONG and compiled.reads(wire, torch.uint8)


def _read_by_numba(wire: Tensor, scale: Tensor, s: int, width: int, d: int, meaning: Meaning) -> tuple[Tensor, int]:
    table = meaning(scale, torch.arange(-s, s + 1).expand(*scale.shape[:-1], -1))
    return look_up(wire, 4, width, table, d)


read = (Twin("numba", _makes_many, _read_by_numba),)


def _trits(wire: Tensor, scale: Tensor, d: int, meaning: Meaning) -> bool:
    return compiled.in_all(wire, d) >= compiled.LONG and compiled.reads(wire, torch.uint8)


def _trits_by_numba(wire: Tensor, scale: Tensor, d: int, meaning: Meaning) -> tuple[Tensor, bool]:
    values, largest = _read_by_numba(wire, scale, 1, FIVES, d, meaning)
    return values, largest <= 2


read_trits = (Twin("numba", _trits, _trits_by_numba),)


def look_up(wire: Tensor, head: int, width: int, table: Tensor, d: int) -> tuple[Tensor, int]:
    """Decode codes of `width` <= 8 bits, or FIVES, that follow u8[..., head]: values f32[..., d] and the largest code.

    table: f32[..., c], the value of every code; codes >= c get arbitrary values. For FIVES the largest code is
    reported as 255 if a byte is not a valid group of five.
    """
    from gradwire.kernels import cpu

    out = compiled.empty(wire, d, torch.float32)
    return out, int(cpu.look_up(compiled.rows(wire), head, width, compiled.rows(table), compiled.rows(out)))


# Signs (wire/signs.py)


def _signs_by_numba(x: Tensor) -> Tensor:
    from gradwire.kernels import cpu

    out, values = compiled.empty(x, 4 + nbytes(x.shape[-1], 1), torch.uint8), compiled.rows(x)
    sums = np.empty(len(values))
    cpu.signs(values, values.view(np.int32), 4, compiled.rows(out), sums)
    means = torch.from_numpy(sums).div_(max(x.shape[-1], 1)).clamp_(max=torch.finfo(torch.float32).max)
    out[..., :4] = means.float().view(*x.shape[:-1], 1).view(torch.uint8)
    return out


signs = (Twin("numba", many, _signs_by_numba),)


def _signs_some(wire: Tensor, scale: Tensor, d: int) -> bool:
    return compiled.in_all(wire, d) >= compiled.SHORT and compiled.reads(wire, torch.uint8)


def _signed_by_numba(wire: Tensor, scale: Tensor, d: int) -> Tensor:
    from gradwire.kernels import cpu

    out, scales = compiled.empty(wire, d, torch.float32), compiled.rows(scale).ravel()
    cpu.signed(compiled.rows(wire), 4, scales.view(np.int32), compiled.rows(out).view(np.int32))
    return out


signed = (Twin("numba", _signs_some, _signed_by_numba),)


# Classes of magnitudes (wire/classes.py)

THRESHOLDS = 7
"""The number of thresholds in the loop; a format with fewer fills up with infinite ones."""


def _some_values(x: Tensor, width: int, thresholds: Tensor, grain: Tensor) -> bool:
    return x.numel() >= compiled.SHORT and compiled.reads(x, torch.float32)


def _classes_by_numba(x: Tensor, width: int, thresholds: Tensor, grain: Tensor) -> Tensor:
    from gradwire.kernels import cpu

    count, values = thresholds.shape[-1] + 1, compiled.rows(x)
    limits = np.full((len(values), THRESHOLDS), np.inf, np.float32)
    limits[:, : count - 1] = compiled.rows(thresholds)
    out = compiled.empty(x, 4 * count + nbytes(x.shape[-1], width), torch.uint8)
    sums, members = np.empty((len(values), count)), np.empty((len(values), count), np.int64)
    cpu.classes(
        values,
        values.view(np.int32),
        limits.view(np.int32),
        grain.flatten().numpy(),  # pyright: ignore
        width,
        4 * count,
        compiled.rows(out),
        sums,
        members,
    )
    means = torch.from_numpy((sums / np.maximum(members, 1)).astype(np.float32)).view(*x.shape[:-1], count)
    out[..., : 4 * count] = means.view(torch.uint8)
    return out


classes = (Twin("numba", _some_values, _classes_by_numba),)


def _codes(wire: Tensor, width: int, table: Tensor, k: int) -> bool:
    return compiled.in_all(wire, k) >= compiled.SHORT and compiled.reads(wire, torch.uint8)


def _means_by_numba(wire: Tensor, width: int, table: Tensor, k: int) -> Tensor:
    return look_up(wire, wire.shape[-1] - nbytes(k, width), width, table, k)[0]


means = (Twin("numba", _codes, _means_by_numba),)
