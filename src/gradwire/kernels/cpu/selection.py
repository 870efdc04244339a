"""Selection by Numba, of float32 in the host's memory: one read of the vector, no copy, the interpreter not held.

A float32 magnitude's bits order as it does. With the index below them they make a key, magnitude << 32 | last - index,
that no other element has and that is larger where of equals the first wins: selection is the k-th largest of integers.
Indices are counted within a span, so that a span has at most 2^32 elements.
"""

# What is in the loops is Numba's language: the signatures above them are its types, checked when it compiles.
# pyright: basic, reportCallIssue=false

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwire.kernels.cpu import compiler
from gradwire.kernels.cpu.compiler import SIZE, Bits, Ints, Words, compile_for, lowest, reaching

LAST = 0xFFFFFFFF

BLOCK = 1024
"""Elements between two looks at the buffer's free end, a multiple of 64."""

BINS = 2048
"""Of a histogram: it stays in the first cache."""

SAMPLED = 512
"""From here on a guess costs less than it saves."""

GOLDEN, FIRST, SECOND = map(np.uint64, (compiler.GOLDEN, compiler.FIRST, compiler.SECOND))
ONE = np.uint64(1)


@compile_for("int64(int64[::1], int64, int64, int64[::1], int64[::1])")
def kth_largest(keys: Ints, m: int, k: int, rest: Ints, counts: Ints) -> int:
    """The k-th largest of keys[:m], k > 0, equals counted one by one. Overwrites rest, as long as keys, and counts.

    A histogram between the smallest and the largest tells the bin where it lies, and the search goes on in there: a
    round divides the range by a quarter of m at least, or by 1024, so that there are few, whatever the values.
    """
    source = keys
    while True:
        low = high = source[0]
        for i in range(m):
            low, high = min(low, source[i]), max(high, source[i])
        if low == high:
            return low
        bins, shift = 2, 0
        while bins < min(m, BINS):
            bins *= 2
        while (high - low) >> shift >= bins:
            shift += 1
        counts[:bins] = 0
        for i in range(m):
            counts[(source[i] - low) >> shift] += 1
        bin = (high - low) >> shift
        while counts[bin] < k:
            k -= int(counts[bin])
            bin -= 1
        found = 0
        for i in range(m):
            key = source[i]
            rest[found] = key
            found += (key - low) >> shift == bin
        source = rest
        m = found


def buffer_size(d: int, k: int) -> int:
    """Keys that lie in the memory while the k largest of d elements are searched, at most."""
    return 2 * k + max(8, int((float(d) * k) ** (1 / 3))) + 2 * BLOCK


@compile_for("int64(int64, int64)")
def sample_of(d: int, k: int) -> int:
    """Elements that set the threshold of a span, a multiple of 8.

    s of them leave a surplus of some k / sqrt(s k / d). What both cost together is least near s = (d k)^(1/3).
    """
    return max(8, int((float(d) * k) ** (1 / 3)) // 8) * 8


@compile_for("int64(int64, int64, int64)")
def run_of(d: int, k: int, number: int) -> int:
    """Where in d elements run `number` of the sample begins, of eight neighbours: one by one each would cost a cache
    line of its own. Shifted by its number, so that the sample does not walk down one column of a matrix."""
    step = d // (sample_of(d, k) // 8)
    return number * step + number * 7 % (step - 7)


@compile_for("int64(int64, int64, int64[::1], int64[::1], int64[::1])")
def threshold_of(d: int, k: int, sample: Ints, rest: Ints, counts: Ints) -> int:
    """The bits of a magnitude that k of d elements or a few more reach, most likely, by a sample's."""
    size, density = sample_of(d, k), k / d
    expected = density * size
    # Three standard deviations more than expected: too few cost a second pass, for which all workers wait.
    wanted = int(expected + 3 * math.sqrt(expected * (1 - density))) + 3
    return kth_largest(sample, size, wanted, rest, counts) if wanted < size else 0


@compile_for("int64(int32[::1], int64, int64[::1], int64[::1], int64[::1])")
def _guess(bits: Bits, k: int, keys: Ints, rest: Ints, counts: Ints) -> int:
    """The same of a vector."""
    for number in range(sample_of(len(bits), k) // 8):
        start = run_of(len(bits), k, number)
        for j in range(8):
            keys[number * 8 + j] = bits[start + j] & SIZE
    return threshold_of(len(bits), k, keys, rest, counts)


@compile_for("int64(int32[::1], int64, int64, int64, int64[::1], int64)")
def _append(bits: Bits, start: int, end: int, threshold: int, keys: Ints, m: int) -> int:
    """Append the keys of bits[start:end] that reach the threshold to keys[:m]; return how many there are then."""
    limit = np.int32(threshold)
    whole = start + (end - start) // 64 * 64
    for at in range(start, whole, 64):
        reached = np.uint64(reaching(bits, at, limit))  # pyright: ignore[reportCallIssue]
        while reached:
            i = at + np.int64(lowest(reached))  # pyright: ignore[reportCallIssue]
            reached &= reached - ONE
            keys[m] = np.int64(bits[i] & SIZE) << 32 | LAST - i
            m += 1
    for i in range(whole, end):
        keys[m] = np.int64(bits[i] & SIZE) << 32 | LAST - i
        m += (bits[i] & SIZE) >= limit
    return m


@compile_for("int64(int32[::1], int64, int64, int64[::1], int64[::1], int64[::1])")
def _passing(bits: Bits, k: int, threshold: int, keys: Ints, rest: Ints, counts: Ints) -> int:
    """Collect the keys that reach the threshold; return how many. The k largest are among them if there are k.

    Where the buffer fills up, the k largest so far stay, and the smallest of them is the new threshold: that is work
    for k keys after every k that came, so that no vector takes more than linear time.
    """
    m = 0
    for start in range(0, len(bits), BLOCK):
        if m + BLOCK > len(keys):
            smallest = kth_largest(keys, m, k, rest, counts)
            kept = 0
            for i in range(m):
                key = keys[i]
                keys[kept] = key
                kept += key >= smallest
            m, threshold = kept, (smallest >> 32) + 1
        m = _append(bits, start, min(start + BLOCK, len(bits)), threshold, keys, m)
    return m


@compile_for("void(int32[::1], int64, int64, int64[::1], int64[::1], int64[::1], int64[::1])")
def _select(bits: Bits, k: int, base: int, out: Ints, keys: Ints, rest: Ints, counts: Ints) -> None:
    """Write the indices of the k largest magnitudes, plus base, to out i64[k]."""
    if k == len(bits):
        for i in range(k):
            out[i] = base + i
    if k in (0, len(bits)):
        return
    # No more than is needed: without a threshold the whole buffer fills up before there is one.
    keys = keys[: 2 * k + sample_of(len(bits), k) + 2 * BLOCK]
    threshold = _guess(bits, k, keys, rest, counts) if len(bits) >= SAMPLED else 0
    m = _passing(bits, k, threshold, keys, rest, counts)
    if m < k:
        m = _passing(bits, k, 0, keys, rest, counts)
    smallest = kth_largest(keys, m, k, rest, counts)
    at = i = 0
    while at < k:
        out[at] = base + LAST - (keys[i] & LAST)
        at += keys[i] >= smallest
        i += 1


@compile_for("void(int32[::1], int64[:,::1], int64[::1], int64[::1], int64[:,::1])")
def segmented_topk(bits: Bits, spans: Ints, ks: Ints, out: Ints, scratch: Ints) -> None:
    """Write what `reference.segmented_topk` finds in float32 bits[d], spans[L, 2], ks[L], to out[sum of ks].

    Args:
        bits: the vector, read as integers.
        spans: starts and ends.
        ks: how many of each.
        out: written.
        scratch: [2, m], written over; m is what `buffer_size` says of the largest k, or more.

    Raises:
        ValueError: a span that does not lie in the vector, or a k that the span does not have.
    """
    for i in range(len(ks)):
        if not (0 <= spans[i, 0] <= spans[i, 1] <= len(bits) and 0 <= ks[i] <= spans[i, 1] - spans[i, 0]):
            raise ValueError("a span or its k does not fit the vector")
    keys, rest = scratch[0], scratch[1]
    counts = np.empty(BINS, np.int64)
    at = base = 0
    for i in range(len(ks)):
        start, end = spans[i]
        _select(bits[start:end], ks[i], base, out[at : at + ks[i]], keys, rest, counts)
        at += ks[i]
        base += end - start


@compile_for("void(uint64, uint64, int64, uint64[::1])")
def _draw(key: Any, d: Any, count: int, drawn: Words) -> None:
    """Set `count` bits of the first d of drawn: the first distinct values of the stream, modulo d."""
    drawn[:] = 0
    found = 0
    while found < count:
        key += GOLDEN
        z = (key ^ (key >> np.uint64(30))) * FIRST
        z = (z ^ (z >> np.uint64(27))) * SECOND
        value = ((z ^ (z >> np.uint64(31))) >> np.uint64(2)) % d
        word, bit = value >> np.uint64(6), ONE << (value & np.uint64(63))
        found += (drawn[word] & bit) == 0
        drawn[word] |= bit


@compile_for("int64[:,::1](uint64[::1], int64, int64)")
def support(keys: Words, d: int, k: int) -> Ints:
    """Do what `support.support` does of keys[m], 0 < k <= d, in d bits of memory: [m, k]."""
    out = np.empty((len(keys), k), np.int64)
    drawn = np.empty((d + 63) // 64, np.uint64)
    rest = np.uint64(0) if 2 * k <= d else ~np.uint64(0)  # what is drawn is left out
    for row in range(len(keys)):
        _draw(keys[row], np.uint64(d), min(k, d - k), drawn)
        at = word = 0
        while at < k:
            bits = drawn[word] ^ rest
            while bits and at < k:  # behind d the last word has bits that count for nothing
                out[row, at] = word * 64 + np.int64(lowest(bits))  # pyright: ignore[reportCallIssue]
                bits &= bits - ONE
                at += 1
            word += 1
    return out
