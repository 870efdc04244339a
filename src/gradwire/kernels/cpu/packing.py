"""Numba's loops that pack integers of a few bits to bytes and back. Every row takes a whole number of bytes.

Eight numbers of `width` bits take `width` bytes, which fit into one 64-bit word up to a width of 8.
"""

# pyright: basic, reportCallIssue=false

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire.kernels.cpu.compiler import Bits, Bytes, Floats, Ints, Words, beyond, compile_for, load, store

BLOCK = 1280
"""Codes per block, which fit into the level-1 cache: a multiple of 64 and of 5."""

FIVES = 0
"""A special width: five ternary numbers in a byte."""


@compile_for("void(uint8[::1], int64, int64, uint64)")
def put(out: Bytes, at: int, end: int, word: Any) -> None:
    """Write a word to out[at : at + 8], cut off at `end`."""
    if at + 8 <= end:
        store(out, at, word)
    else:
        for i in range(at, end):
            out[i] = np.uint8(word & np.uint64(255))
            word >>= np.uint64(8)


@compile_for("uint64(uint8[::1], int64, int64)")
def get(wire: Bytes, at: int, end: int) -> Any:
    """Read wire[at : at + 8] as a word, with zeros from `end` on."""
    if at + 8 <= end:
        return load(wire, at)
    word = np.uint64(0)
    for i in range(at, end):
        word |= np.uint64(wire[i]) << np.uint64(8 * (i - at))
    return word


@compile_for("void(int64[::1], int64, uint8[::1], int64)")
def pack_row(values: Ints, width: int, out: Bytes, start: int) -> None:
    """Pack the low `width` bits, 0 <= width <= 62, of values i64[m] into out u8 from `start` on, to a whole byte."""
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    end = start + (len(values) * width + 7) // 8
    word, filled, at = np.uint64(0), 0, start
    for i in range(len(values)):
        value = np.uint64(values[i]) & mask
        word |= value << np.uint64(filled)
        filled += width
        if filled >= 64:
            put(out, at, end, word)
            at += 8
            filled -= 64
            # The high bits of this value that did not fit, if any.
            word = value >> np.uint64(width - filled) if filled else np.uint64(0)
    put(out, at, end, word)


@compile_for("void(int64[:,::1], int64, uint8[:,::1])")
def pack(values: Ints, width: int, out: Bytes) -> None:
    """Pack i64[rows, m] of `width` bits to out u8[rows, nbytes]."""
    for row in range(len(values)):
        pack_row(values[row], width, out[row], 0)


@compile_for("void(uint8[:,::1], int64, int64[:,::1])")
def unpack(wire: Bytes, width: int, out: Ints) -> None:
    """Unpack u8[rows, nbytes] to out i64[rows, m] of `width` bits."""
    mask, end = (np.uint64(1) << np.uint64(width)) - np.uint64(1), wire.shape[1]
    for row in range(len(wire)):
        packed = wire[row]
        for i in range(out.shape[1]):
            at, shift = i * width >> 3, i * width & 7
            value = get(packed, at, end) >> np.uint64(shift)
            if shift + width > 64:
                value |= get(packed, at + 8, end) << np.uint64(64 - shift)
            out[row, i] = np.int64(value & mask)


@compile_for("void(uint8[::1], uint8[::1])")
def _flags_row(flags: Bytes, out: Bytes) -> None:
    whole = len(flags) // 64 * 64
    for at in range(0, whole, 64):
        store(out, at >> 3, beyond(flags, at, np.uint8(0)))
    out[whole >> 3 :] = 0
    for i in range(whole, len(flags)):
        out[i >> 3] |= np.uint8((flags[i] != 0) << (i & 7))


@compile_for("void(uint8[:,::1], uint8[:,::1])")
def pack_flags(flags: Bytes, out: Bytes) -> None:
    """Pack u8[rows, m] of zeros and ones to out u8[rows, nbytes]."""
    for row in range(len(flags)):
        _flags_row(flags[row], out[row])


@compile_for("void(uint8[:,::1], uint8[:,::1])")
def unpack_flags(wire: Bytes, out: Bytes) -> None:
    """Unpack u8[rows, nbytes] to out u8[rows, m] of zeros and ones."""
    for row in range(len(wire)):
        packed, flags = wire[row], out[row]
        whole = len(flags) // 8
        for i in range(whole):
            for j in range(8):
                flags[8 * i + j] = packed[i] >> j & 1
        for i in range(8 * whole, len(flags)):
            flags[i] = packed[i >> 3] >> (i & 7) & 1


@compile_for("void(int32[::1], int32, uint8[::1], int64)")
def flag_signs(bits: Bits, threshold: Any, out: Bytes, start: int) -> None:
    """Write a bit for each of float32 bits[m], set if it exceeds the threshold unsigned, to out u8 from `start` on."""
    whole = len(bits) // 64 * 64
    for at in range(0, whole, 64):
        store(out, start + (at >> 3), beyond(bits, at, threshold))
    for at in range(whole, len(bits), 8):
        byte = 0
        for i in range(at, min(at + 8, len(bits))):
            byte |= (np.uint32(bits[i]) > np.uint32(threshold)) << (i - at)
        out[start + (at >> 3)] = byte


@compile_for("void(uint8[::1], int64, int64, uint8[::1], int64, int64)")
def pack_codes(codes: Bytes, m: int, width: int, out: Bytes, at: int, end: int) -> None:
    """Pack codes u8[:m] of `width` <= 8 bits, or FIVES, to out u8[at:end]; reads codes up to a multiple of 8 or 5."""
    if width == FIVES:
        for i in range((m + 4) // 5):
            j = 5 * i
            out[at + i] = codes[j] + 3 * codes[j + 1] + 9 * codes[j + 2] + 27 * codes[j + 3] + 81 * codes[j + 4]
        return
    if width == 8:
        out[at : at + m] = codes[:m]
        return
    # Join neighbours three times: to four numbers of twice the width, two of four times, one of eight times.
    one = np.uint64(width)
    first, second, third = np.uint64(8) - one, np.uint64(16) - np.uint64(2) * one, np.uint64(32) - np.uint64(4) * one
    low = np.uint64(0x00FF00FF00FF00FF)
    middle, half = np.uint64(0x0000FFFF0000FFFF), np.uint64(0xFFFFFFFF)
    for i in range((m + 7) // 8):
        word = np.uint64(load(codes, 8 * i))
        word = (word & low) | (word & ~low) >> first
        word = (word & middle) | (word & ~middle) >> second
        put(out, at + i * width, end, (word & half) | (word & ~half) >> third)


@compile_for("void(uint8[::1], int64, int64, int64, int64, uint64[::1], uint8[::1])")
def _unpack_codes(wire: Bytes, at: int, end: int, m: int, width: int, fives: Words, codes: Bytes) -> None:
    """Undo `pack_codes`: read codes u8[:m] from wire[at:end]; writes codes up to the next multiple of 8."""
    if width == FIVES:
        for i in range((m + 4) // 5):
            store(codes, 5 * i, fives[wire[at + i]])
        return
    if width == 8:
        codes[:m] = wire[at : at + m]
        return
    one = np.uint64(width)
    first, second, third = np.uint64(8) - one, np.uint64(16) - np.uint64(2) * one, np.uint64(32) - np.uint64(4) * one
    half = (np.uint64(1) << np.uint64(4) * one) - np.uint64(1)
    middle = ((np.uint64(1) << np.uint64(2) * one) - np.uint64(1)) * np.uint64(0x0000000100000001)
    low = ((np.uint64(1) << one) - np.uint64(1)) * np.uint64(0x0001000100010001)
    for i in range((m + 7) // 8):
        word = np.uint64(get(wire, at + i * width, end)) & ((np.uint64(1) << np.uint64(8) * one) - np.uint64(1))
        word = (word & half) | (word & ~half) << third
        word = (word & middle) | (word & ~middle) << second
        store(codes, 8 * i, (word & low) | (word & ~low) << first)


@compile_for("int64(uint8[::1], float32[::1], float32[::1])")
def _choose(codes: Bytes, table: Floats, out: Floats) -> int:
    largest = np.uint8(0)
    for i in range(len(out)):
        code = codes[i]
        largest = code if code > largest else largest
        out[i] = table[code]
    return int(largest)


@compile_for("int64(uint8[:,::1], int64, int64, float32[:,::1], float32[:,::1])")
def look_up(wire: Bytes, head: int, width: int, table: Floats, out: Floats) -> int:
    """Look up codes of `width` <= 8 bits, or FIVES, of u8[rows, head + nbytes] in table f32[rows, c]: out f32[rows, m].

    Codes >= c get arbitrary values. Returns the largest code; for FIVES, 255 if a byte is not a valid group of five.
    """
    fives, largest, d = np.empty(256, np.uint64), 0, out.shape[1]
    for byte in range(256):
        word, rest = 0, byte
        for j in range(5):
            word |= (rest % 3) << 8 * j
            rest //= 3
        fives[byte] = np.uint64(word) if byte < 243 else np.uint64(0xFFFFFFFFFF)
    codes, meanings = np.empty(BLOCK + 8, np.uint8), np.zeros(256, np.float32)
    for row in range(len(wire)):
        for code in range(table.shape[1]):
            meanings[code] = table[row, code]
        for start in range(0, d, BLOCK):
            m = min(BLOCK, d - start)
            at = head + (start * width // 8 if width else start // 5)
            _unpack_codes(wire[row], at, wire.shape[1], m, width, fives, codes)
            largest = max(largest, _choose(codes, meanings, out[row, start : start + m]))
    return int(largest)
