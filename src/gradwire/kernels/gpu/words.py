"""Triton's loops for messages: bits, bitmaps, rounding and sums of sparse vectors.

A byte is made by one lane, which reads what falls into it: nothing is written twice, and nothing needs an order. Only
a bitmap is made by atomics, of an `or`, which has none.
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
"""Of SplitMix64, as in splitmix.py."""


@triton.jit
def _lanes(BLOCK: tl.constexpr):
    return tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def pack(values, wire, count, width, nbytes, BLOCK: tl.constexpr):
    """The lowest `width` bits of i64 values[count], 0 < width < 63, one after the other: u8[nbytes]."""
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
    """What `pack` packed: i64 values[count]."""
    value = _lanes(BLOCK)
    first = value * width
    position = first & 7
    found = tl.zeros((BLOCK,), tl.int64)
    for part in tl.static_range(9):
        shift = 8 * part - position
        needed = (value < count) & (shift < width)
        word = tl.load(wire + (first >> 3) + part, mask=needed, other=0).to(tl.int64)
        # A shift by 64 or more, or by less than none, has no result, also where it is not needed.
        up = tl.where(needed, tl.maximum(shift, 0), 0)
        down = tl.where(needed, tl.maximum(-shift, 0), 0)
        found |= (word >> down) << up
    mask = (tl.full((), 1, tl.int64) << width) - 1
    tl.store(values + value, found & mask, mask=value < count)


@triton.jit
def pack_flags(flags, wire, count, nbytes, BLOCK: tl.constexpr):
    """Flags u8[count] of zeros and ones, or which of f32[count] lie below zero, eight a byte: u8[nbytes]."""
    byte = _lanes(BLOCK)
    position = tl.arange(0, 8)
    at = byte[:, None] * 8 + position[None, :]
    given = tl.load(flags + at, mask=at < count, other=0)
    flag = (given < 0).to(tl.int32) if given.dtype.is_floating() else given.to(tl.int32)
    tl.store(wire + byte, tl.sum(flag << position[None, :], 1).to(tl.uint8), mask=byte < nbytes)


@triton.jit
def unpack_flags(wire, flags, count, BLOCK: tl.constexpr):
    """What `pack_flags` packed of flags: u8[count]."""
    flag = _lanes(BLOCK)
    word = tl.load(wire + (flag >> 3), mask=flag < count, other=0).to(tl.int32)
    tl.store(flags + flag, ((word >> (flag & 7).to(tl.int32)) & 1).to(tl.uint8), mask=flag < count)


@triton.jit
def bitmap(indices, words, count, low, GAPS: tl.constexpr, BLOCK: tl.constexpr):
    """Set bit indices[i], or with GAPS bit (indices[i] >> low) + i, of words i32[m], which are zeros."""
    i = _lanes(BLOCK)
    bit = tl.load(indices + i, mask=i < count, other=0)
    if GAPS:
        bit = (bit >> low) + i
    flag = tl.full((BLOCK,), 1, tl.int32) << (bit & 31).to(tl.int32)
    tl.atomic_or(words + (bit >> 5), flag, mask=i < count, sem="relaxed")


@triton.jit
def add(target, indices, values, alpha, count, BLOCK: tl.constexpr):
    """Add alpha times one message's values to a target; no index comes twice in a message, so that no order counts."""
    i = _lanes(BLOCK)
    index = tl.load(indices + i, mask=i < count, other=0)
    value = tl.load(values + i, mask=i < count, other=0.0) * alpha
    old = tl.load(target + index, mask=i < count, other=0.0)
    tl.store(target + index, old + value, mask=i < count)


@triton.jit
def add_sorted(target, indices, order, values, alpha, count, BLOCK: tl.constexpr):
    """The same of indices that come again, sorted, with `order` i64[count] telling where each came from.

    The first of equals adds them all, one by one in their order.
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
    """Round floats' bits i32[count] to powers of two at random: exponents u8[count], then signs u8[nbytes].

    The mantissa, also a subnormal's, is the chance of the next power, of 2^23: so many of a number's 23 bits lie below.
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
    """Bits of the floats that `round_natural` wrote: i32[count]."""
    i = _lanes(BLOCK)
    power = tl.load(wire + i, mask=i < count, other=0).to(tl.int32)
    word = tl.load(wire + count + (i >> 3), mask=i < count, other=0).to(tl.int32)
    sign = (word >> (i & 7).to(tl.int32)) & 1
    tl.store(bits + i, (power << 23) | (sign << 31), mask=i < count)


@triton.jit
def _stream(key, at):
    """64 random bits of each position: the output that SplitMix64 gives after so many others."""
    z = tl.load(key).to(tl.uint64) + (at + 1).to(tl.uint64) * GOLDEN
    z = (z ^ (z >> 30)) * FIRST
    z = (z ^ (z >> 27)) * SECOND
    return z ^ (z >> 31)
