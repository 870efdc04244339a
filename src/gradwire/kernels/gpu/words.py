"""Triton's loops for messages: bits, bitmaps, rounding and sums of sparse vectors.

Each byte is written by one lane, which reads all that contributes to it, so the order of programs does not matter. Only
a bitmap uses atomics, with `or`, whose order does not matter either.
"""

# The loops are written in Triton's language, which Python's types do not describe.
# pyright: basic
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
FIRST = tl.constexpr(0xBF58476D1CE4E5B9)
SECOND = tl.constexpr(0x94D049BB133111EB)
"""The constants of SplitMix64, as in splitmix.py."""


@triton.jit
def _lanes(BLOCK: tl.constexpr):
    return tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def pack(values, wire, count, width, nbytes, BLOCK: tl.constexpr):
    """Pack the lowest `width` bits of i64 values[count], 0 < width < 63, one after the other: wire u8[nbytes]."""
    byte = _lanes(BLOCK)
    value = byte * 8 // width
    position = byte * 8 - value * width
    packed = tl.zeros((BLOCK,), tl.int32)
    for bit in tl.static_range(8):
        word = tl.load(values + value, mask=value < count, other=0)
        packed |= ((word >> position) & 1).to(tl.int32) << bit
        position += 1
        over = position == width
        value += over.to(tl.int64)
        position = tl.where(over, 0, position)
    tl.store(wire + byte, packed.to(tl.uint8), mask=byte < nbytes)


@triton.jit
def unpack(wire, values, count, width, BLOCK: tl.constexpr):
    """Undo `pack`: i64 values[count]."""
    value = _lanes(BLOCK)
    first = value * width
    position = first & 7
    found = tl.zeros((BLOCK,), tl.int64)
    for part in tl.static_range(9):
        shift = 8 * part - position
        needed = (value < count) & (shift < width)
        word = tl.load(wire + (first >> 3) + part, mask=needed, other=0).to(tl.int64)
        # Shifts by 64 or more, or by a negative number, are undefined, also in lanes that do not need them.
        up = tl.where(needed, tl.maximum(shift, 0), 0)
        down = tl.where(needed, tl.maximum(-shift, 0), 0)
        found |= (word >> down) << up
    mask = (tl.full((), 1, tl.int64) << width) - 1
    tl.store(values + value, found & mask, mask=value < count)


@triton.jit
def pack_flags(flags, wire, count, nbytes, BLOCK: tl.constexpr):
    """Pack flags u8[count] of zeros and ones, or x < 0 for f32[count], eight a byte: wire u8[nbytes]."""
    byte = _lanes(BLOCK)
    position = tl.arange(0, 8)
    at = byte[:, None] * 8 + position[None, :]
    given = tl.load(flags + at, mask=at < count, other=0)
    flag = (given < 0).to(tl.int32) if given.dtype.is_floating() else given.to(tl.int32)
    tl.store(wire + byte, tl.sum(flag << position[None, :], 1).to(tl.uint8), mask=byte < nbytes)


@triton.jit
def unpack_flags(wire, flags, count, BLOCK: tl.constexpr):
    """Undo `pack_flags`: flags u8[count]."""
    flag = _lanes(BLOCK)
    word = tl.load(wire + (flag >> 3), mask=flag < count, other=0).to(tl.int32)
    tl.store(flags + flag, ((word >> (flag & 7).to(tl.int32)) & 1).to(tl.uint8), mask=flag < count)


@triton.jit
def bitmap(indices, words, count, low, GAPS: tl.constexpr, BLOCK: tl.constexpr):
    """Set bit indices[i], or with GAPS bit (indices[i] >> low) + i, of words i32[m], which must be zero."""
    i = _lanes(BLOCK)
    bit = tl.load(indices + i, mask=i < count, other=0)
    if GAPS:
        bit = (bit >> low) + i
    flag = tl.full((BLOCK,), 1, tl.int32) << (bit & 31).to(tl.int32)
    tl.atomic_or(words + (bit >> 5), flag, mask=i < count, sem="relaxed")


@triton.jit
def add(target, indices, values, alpha, count, BLOCK: tl.constexpr):
    """Add alpha times one message's values to a target; indices must not repeat, so the order does not matter."""
    i = _lanes(BLOCK)
    index = tl.load(indices + i, mask=i < count, other=0)
    value = tl.load(values + i, mask=i < count, other=0.0) * alpha
    old = tl.load(target + index, mask=i < count, other=0.0)
    tl.store(target + index, old + value, mask=i < count)


@triton.jit
def add_sorted(target, indices, order, values, alpha, count, BLOCK: tl.constexpr):
    """Add alpha times values at sorted indices that may repeat; `order` i64[count] holds their original positions.

    The lane of the first of equal indices adds all of them, one by one in their original order.
    """
    i = _lanes(BLOCK)
    index = tl.load(indices + i, mask=i < count, other=-1)
    before = tl.load(indices + i - 1, mask=(i > 0) & (i < count), other=-1)
    active = (i < count) & (index != before)
    total = tl.load(target + index, mask=active, other=0.0)
    first = active
    while tl.sum(active.to(tl.int32), 0) > 0:
        source = tl.load(order + i, mask=active, other=0)
        value = tl.load(values + source, mask=active, other=0.0) * alpha
        total = tl.where(active, total + value, total)
        i += 1
        again = tl.load(indices + i, mask=active & (i < count), other=-1)
        active = active & (again == index)
    tl.store(target + index, total, mask=first)


@triton.jit
def round_natural(bits, key, wire, count, nbytes, BLOCK: tl.constexpr):
    """Round floats' bits i32[count] stochastically to powers of two: exponents u8[count], then signs u8[nbytes].

    The probability of the next power is mantissa / 2^23, also for subnormal numbers: 23 random bits are compared with
    the mantissa.
    """
    byte = _lanes(BLOCK)
    position = tl.arange(0, 8)
    at = byte[:, None] * 8 + position[None, :]
    value = tl.load(bits + at, mask=at < count, other=0)
    up = (_stream(key, at) >> 41).to(tl.int32) < (value & 0x7FFFFF)
    power = tl.minimum(((value & 0x7FFFFFFF) >> 23) + up.to(tl.int32), 254)
    tl.store(wire + at, power.to(tl.uint8), mask=at < count)
    signs = tl.sum(((value >> 31) & 1) << position[None, :], 1)
    tl.store(wire + count + byte, signs.to(tl.uint8), mask=byte < nbytes)


@triton.jit
def read_natural(wire, bits, count, BLOCK: tl.constexpr):
    """Decode what `round_natural` wrote to floats' bits i32[count]."""
    i = _lanes(BLOCK)
    power = tl.load(wire + i, mask=i < count, other=0).to(tl.int32)
    word = tl.load(wire + count + (i >> 3), mask=i < count, other=0).to(tl.int32)
    sign = (word >> (i & 7).to(tl.int32)) & 1
    tl.store(bits + i, (power << 23) | (sign << 31), mask=i < count)


@triton.jit
def _stream(key, at):
    """SplitMix64's output number `at`, 64 random bits for each position."""
    z = tl.load(key).to(tl.uint64) + (at + 1).to(tl.uint64) * GOLDEN
    z = (z ^ (z >> 30)) * FIRST
    z = (z ^ (z >> 27)) * SECOND
    return z ^ (z >> 31)
