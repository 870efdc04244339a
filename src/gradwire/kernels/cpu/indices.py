"""Numba's loops for Elias-Fano coding (wire/index.py), in one pass over k indices."""

# pyright: basic, reportCallIssue=false

from __future__ import annotations

import numpy as np

from gradwire.kernels.cpu.compiler import Bytes, Ints, compile_for, lowest
from gradwire.kernels.cpu.packing import get, pack_row, put

ONE = np.uint64(1)


@compile_for("void(int64[::1], int64, int64, int64, int64, uint8[::1])")
def _bitmap(indices: Ints, d: int, low: int, gap: int, split: int, out: Bytes) -> None:
    """Set bit (index_i >> low) + gap i of the bits that begin at byte `split`, up to the end of out."""
    word, at, end, previous = np.uint64(0), split, len(out), -1
    for i in range(len(indices)):
        index = indices[i]
        if not previous < index < d:
            raise ValueError("indices must increase and lie below d")
        previous = index
        bit = (index >> low) + gap * i
        target = split + (bit >> 6 << 3)
        while at < target:
            put(out, at, end, word)
            word = np.uint64(0)
            at += 8
        word |= ONE << np.uint64(bit & 63)
    while at < end:
        put(out, at, end, word)
        word = np.uint64(0)
        at += 8


@compile_for("void(int64[:,::1], int64, int64, int64, int64, uint8[:,::1])")
def encode(indices: Ints, d: int, low: int, gap: int, split: int, out: Bytes) -> None:
    """Encode increasing i64[rows, k] below d to out u8[rows, nbytes]: the low bits, then the bitmap from byte `split`.

    Raises:
        ValueError: indices do not increase or are not below d.
    """
    for row in range(len(indices)):
        _bitmap(indices[row], d, low, gap, split, out[row])
        if low:
            pack_row(indices[row], low, out[row], 0)


@compile_for("int64(uint8[::1], int64, int64, int64, int64, int64, int64[::1])")
def _positions(wire: Bytes, d: int, low: int, gap: int, split: int, length: int, out: Ints) -> int:
    mask, found, end, wrong, previous = (ONE << np.uint64(low)) - ONE, 0, len(wire), 0, -1
    for start in range(0, length, 64):
        word = get(wire, split + (start >> 3), end)
        if length - start < 64:
            word &= (ONE << np.uint64(length - start)) - ONE
        while word:
            if found == len(out):
                return 1
            bit = start + lowest(word)
            word &= word - ONE
            position = found * low
            rest = get(wire, position >> 3, end) >> np.uint64(position & 7) & mask
            index = (bit - gap * found) << low | np.int64(rest)
            wrong |= not previous < index < d
            previous = index
            out[found] = index
            found += 1
    return 1 if found < len(out) else 2 * wrong


@compile_for("int64(uint8[:,::1], int64, int64, int64, int64, int64, int64[:,::1])")
def decode(wire: Bytes, d: int, low: int, gap: int, split: int, length: int, out: Ints) -> int:
    """Decode u8[rows, nbytes] with a bitmap of `length` bits to out i64[rows, k], k > 0; `low` is at most 56.

    Returns 0; 1 if a row does not hold k indices; or 2 if a row's indices do not increase or are not below d.
    """
    found = 0
    for row in range(len(wire)):
        state = _positions(wire[row], d, low, gap, split, length, out[row])
        if state == 1:
            return 1
        found = max(found, state)
    return found
