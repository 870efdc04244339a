"""Numba's loops that quantise directly to bytes: stochastic rounding, signs, and classes of magnitudes."""

# pyright: basic, reportCallIssue=false

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire.kernels.cpu.compiler import (
    SIZE,
    Bits,
    Bytes,
    Floats,
    Ints,
    Wide,
    as_integer,
    compile_for,
    hashed,
    put,
)
from gradwire.kernels.cpu.packing import BLOCK, flag_signs, pack_codes

MANTISSA = np.int32(0x7FFFFF)
SIGNED, NEGATIVE = np.int32(0x7FFFFFFF), np.int32(-(2**31))
"""Thresholds for unsigned comparisons of float32 bits: above SIGNED is every value with a sign bit; above NEGATIVE,
every value below zero, without -0."""

UNIT = 2.0**-53


@compile_for("void(uint64, float32[::1])")
def uniforms(key: Any, out: Floats) -> None:
    """Fill f32[m] with the first m uniforms of a key."""
    for i in range(len(out)):
        out[i] = np.float32(np.int64(hashed(key, i) >> np.uint64(40))) * np.float32(2.0**-24)


@compile_for("void(uint64, int64, float64[::1])")
def wide_uniforms(key: Any, base: int, out: Wide) -> None:
    """Fill f64[m] with uniforms of a key, from number `base` on."""
    for i in range(len(out)):
        out[i] = np.float64(np.int64(hashed(key, base + i) >> np.uint64(11))) * UNIT


@compile_for("void(float32[::1], uint64, uint16[::1])")
def round_half(x: Floats, key: Any, out: Any) -> None:
    """Round f32[m] stochastically to bfloat16 bits u16[m]."""
    for i in range(len(out)):
        put(out, i, x[i], key)


@compile_for("void(int32[::1], uint64, int64, uint8[::1])")
def _exponents(bits: Bits, key: Any, base: int, out: Bytes) -> None:
    for i in range(len(bits)):
        # MANTISSA - drawn carries into the exponent exactly if the drawn number is below the mantissa.
        drawn = np.int32(np.int64(hashed(key, base + i) >> np.uint64(41)))
        code = np.int32((bits[i] & SIZE) + (MANTISSA - drawn)) >> np.int32(23)
        out[i] = np.uint8(min(code, np.int32(254)))


@compile_for("void(int32[:,::1], uint64, uint8[:,::1])")
def natural(bits: Bits, key: Any, out: Bytes) -> None:
    """Encode float32 bits[rows, d] as out u8[rows, d + ceil(d / 8)]: stochastically rounded exponents, then signs."""
    d = bits.shape[1]
    for row in range(len(bits)):
        _exponents(bits[row], key, row * d, out[row, :d])
        flag_signs(bits[row], SIGNED, out[row], d)


@compile_for("void(uint8[:,::1], int32[:,::1])")
def powers(wire: Bytes, out: Bits) -> None:
    """Decode exponents and signs u8[rows, d + ceil(d / 8)] to float32 bits out[rows, d]."""
    d = out.shape[1]
    whole = d // 8 * 8
    for row in range(len(wire)):
        codes, signs, bits = wire[row, :d], wire[row, d:], out[row]
        for i in range(0, whole, 8):
            byte = np.uint32(signs[i >> 3])
            for j in range(8):
                sign = (byte >> np.uint32(j)) << np.uint32(31)
                bits[i + j] = np.int32(sign | np.uint32(codes[i + j]) << np.uint32(23))
        for i in range(whole, d):
            sign = (np.uint32(signs[i >> 3]) >> np.uint32(i & 7)) << np.uint32(31)
            bits[i] = np.int32(sign | np.uint32(codes[i]) << np.uint32(23))


@compile_for("float64(float32[::1])", fastmath={"reassoc", "contract", "nsz"})
def _total(x: Floats) -> Any:
    total = 0.0
    for i in range(len(x)):
        total += np.float64(abs(x[i]))
    return total


@compile_for("void(float32[:,::1], int32[:,::1], int64, uint8[:,::1], float64[::1])")
def signs(x: Floats, bits: Bits, head: int, out: Bytes, sums: Wide) -> None:
    """For f32[rows, d] and its bits, write the signs to out u8[rows, head + ceil(d / 8)], and sum |x| for each row."""
    d = x.shape[1]
    for row in range(len(x)):
        sums[row] = 0.0
        for start in range(0, d, 4096):
            end = min(start + 4096, d)
            sums[row] += _total(x[row, start:end])
            flag_signs(bits[row, start:end], NEGATIVE, out[row], head + (start >> 3))


@compile_for("void(uint8[:,::1], int64, int32[::1], int32[:,::1])")
def signed(wire: Bytes, head: int, scales: Bits, out: Bits) -> None:
    """Decode signs u8[rows, head + ceil(d / 8)] to out f32[rows, d]: each row's scale, negated where the bit is set."""
    d = out.shape[1]
    whole = d // 8 * 8
    for row in range(len(wire)):
        negative, bits, scale = wire[row, head:], out[row], np.uint32(scales[row])
        for i in range(0, whole, 8):
            byte = np.uint32(negative[i >> 3])
            for j in range(8):
                bits[i + j] = np.int32(scale ^ (byte >> np.uint32(j)) << np.uint32(31))
        for i in range(whole, d):
            bits[i] = np.int32(scale ^ (np.uint32(negative[i >> 3]) >> np.uint32(i & 7)) << np.uint32(31))


# The uniforms are computed elsewhere: without their integer arithmetic LLVM vectorises the next loop.
@compile_for("void(float32[::1], float64, float64, float64[::1], uint8[::1])")
def _linear(x: Floats, step: float, s: float, uniforms: Wide, codes: Bytes) -> None:
    middle = np.int32(s)
    for i in range(len(x)):
        size = abs(np.float64(x[i])) * step
        total = (size if size < s else s) + uniforms[i]
        level = np.int32(total if total < s else s)
        codes[i] = np.uint8(middle + (-level if x[i] < np.float32(0) else level))


@compile_for("void(float32[::1], float64, float64, float64[::1], uint8[::1])")
def _geometric(x: Floats, step: float, s: float, uniforms: Wide, codes: Bytes) -> None:
    lowest, raised, middle = 2.0 ** (1 - s), 2.0 ** (s - 1), np.int32(s)
    for i in range(len(x)):
        size = abs(np.float64(x[i])) * step
        ratio = size if size < 1.0 else 1.0
        bits = as_integer(ratio)
        mantissa = np.float64(bits & 0xFFFFFFFFFFFFF) * 2.0**-52
        above = np.int32((bits >> 52) - 1023) + middle + np.int32(uniforms[i] < mantissa)
        level = np.int32(uniforms[i] < ratio * raised) if ratio < lowest else above
        codes[i] = np.uint8(middle + (-level if x[i] < np.float32(0) else level))


@compile_for(
    "void(float32[::1], float64, int64, boolean, uint64, int64, int64, int64, uint8[::1], uint8[::1], float64[::1])"
)
def _level_row(
    x: Floats,
    step: float,
    s: int,
    binary: bool,
    key: Any,
    base: int,
    width: int,
    at: int,
    out: Bytes,
    codes: Bytes,
    drawn: Wide,
) -> None:
    end, count = len(out), float(s)
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        m = len(part)
        wide_uniforms(key, base + start, drawn[:m])
        if binary:
            _geometric(part, step, count, drawn, codes)
        else:
            _linear(part, step, count, drawn, codes)
        codes[m : m + 8] = 0
        pack_codes(codes, m, width, out, at, end)
        at += BLOCK * width // 8 if width else BLOCK // 5


@compile_for("void(float32[:,::1], float64[::1], int64, boolean, uint64, int64, int64, uint8[:,::1])")
def levels(x: Floats, steps: Wide, s: int, binary: bool, key: Any, width: int, head: int, out: Bytes) -> None:
    """Quantise f32[rows, d] stochastically to signed levels; write codes level + s to out u8[rows, head + nbytes].

    Magnitudes are multiplied by steps[rows] and limited to s (to 1 for powers of two, `binary`). A code has `width`
    <= 8 bits, or is ternary with FIVES.
    """
    d, codes, drawn = x.shape[1], np.zeros(BLOCK + 8, np.uint8), np.empty(BLOCK)
    for row in range(len(x)):
        _level_row(x[row], steps[row], s, binary, key, row * d, width, head, out[row], codes, drawn)


@compile_for("void(int32[::1], int32[::1], int32, uint8[::1])")
def _classify(bits: Bits, thresholds: Bits, negative: Any, codes: Bytes) -> None:
    """Codes of float32 bits[m]: the number of 7 thresholds that a magnitude reaches, plus `negative` below zero."""
    a, b, c, d = thresholds[0], thresholds[1], thresholds[2], thresholds[3]
    e, f, g = thresholds[4], thresholds[5], thresholds[6]
    for i in range(len(bits)):
        size = bits[i] & SIZE
        reached = np.int32(size >= a) + np.int32(size >= b) + np.int32(size >= c) + np.int32(size >= d)
        reached += np.int32(size >= e) + np.int32(size >= f) + np.int32(size >= g)
        codes[i] = np.uint8(reached + (negative if bits[i] < 0 and size > 0 else np.int32(0)))


@compile_for(
    "void(float32[:,::1], int32[:,::1], int32[:,::1], float64[::1], int64, int64, uint8[:,::1],"
    " float64[:,::1], int64[:,::1])"
)
def classes(
    x: Floats, bits: Bits, thresholds: Bits, grains: Wide, width: int, head: int, out: Bytes, sums: Wide, counts: Ints
) -> None:
    """Classify f32[rows, k] with its bits: codes to out u8[rows, head + nbytes], and each class's sum and count.

    A magnitude's class is the number of thresholds[rows, 7] that it reaches; the highest of a code's `width` bits is
    set below zero. Magnitudes are rounded to grains[rows], so that their sums are exact.
    """
    rows, k = x.shape
    codes = np.zeros(BLOCK + 8, np.uint8)
    last = (1 << (width - 1)) - 1
    sums[:] = 0.0
    counts[:] = 0
    for row in range(rows):
        for start in range(0, k, BLOCK):
            m = min(BLOCK, k - start)
            _classify(bits[row, start : start + m], thresholds[row], np.int32(last + 1), codes)
            for i in range(m):
                size, member_of = np.float64(abs(x[row, start + i])), np.int64(codes[i]) & last
                sums[row, member_of] += (size + grains[row]) - grains[row]
                counts[row, member_of] += 1
            codes[m : m + 8] = 0
            pack_codes(codes, m, width, out[row], head + start * width // 8, out.shape[1])
