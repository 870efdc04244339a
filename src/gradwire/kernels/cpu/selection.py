"""Numba's loops for selection from float32 in the host's memory: one read of the vector, no copy, GIL released.

The bits of a float32 magnitude order as the magnitude does. With the index they form a unique key,
magnitude << 32 | LAST - index, which is larger for the first of equal magnitudes. So selection means to find the k-th
largest of distinct integers. Indices are counted within a span, so a span has at most 2^32 elements.
"""

# The loops are written in Numba's language: their types are the signatures above them, checked at compilation.
# pyright: basic, reportCallIssue=false

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwire.kernels.cpu import compiler
from gradwire.kernels.cpu.compiler import SIZE, Bits, Ints, Words, compile_for, lowest, reaching

LAST = 0xFFFFFFFF

BLOCK = 1024
"""Number of elements between two checks for free space in the buffer, a multiple of 64."""

BINS = 2048
"""The most bins of a histogram, which then stays in the level-1 cache."""

SAMPLED = 512
"""From this number of elements on, sampling a threshold costs less than it saves."""

GOLDEN, FIRST, SECOND = map(np.uint64, (compiler.GOLDEN, compiler.FIRST, compiler.SECOND))
ONE = np.uint64(1)


@compile_for("int64(int64[::1], int64, int64, int64[::1], int64[::1])")
def kth_largest(keys: Ints, m: int, k: int, rest: Ints, counts: Ints) -> int:
    """The k-th largest of keys[:m], k > 0, with equals counted separately. Overwrites rest[len(keys)] and counts.

    A histogram between the smallest and the largest key finds the bin of the result, in which the search continues. A
    round divides the range by at least m / 4 or 1024, so there are few rounds for any values.
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
    """The number of keys to reserve for selecting the k largest of d elements."""
    return 2 * k + max(8, int((float(d) * k) ** (1 / 3))) + 2 * BLOCK


@compile_for("int64(int64, int64)")
def sample_of(d: int, k: int) -> int:
    """The sample size for the threshold of a span, a multiple of 8.

    A sample of s elements leaves a surplus of about k / sqrt(s k / d). The total cost is minimal near s = (d k)^(1/3).
    """
    return max(8, int((float(d) * k) ** (1 / 3)) // 8) * 8


@compile_for("int64(int64, int64, int64)")
def run_of(d: int, k: int, number: int) -> int:
    """The first index, in d elements, of run `number` of the sample. A run has eight adjacent elements, as single
    elements would cost a cache line each. It is shifted by its number, so that the sample does not stay in one column
    of a matrix."""
    step = d // (sample_of(d, k) // 8)
    return number * step + number * 7 % (step - 7)


@compile_for("int64(int64, int64, int64[::1], int64[::1], int64[::1])")
def threshold_of(d: int, k: int, sample: Ints, rest: Ints, counts: Ints) -> int:
    """The bits of a magnitude that most likely k of d elements or a few more reach, from those of a sample."""
    size, density = sample_of(d, k), k / d
    expected = density * size
    # Three standard deviations above the expectation: too few elements cost a second pass, and all workers wait for it.
    wanted = int(expected + 3 * math.sqrt(expected * (1 - density))) + 3
    return kth_largest(sample, size, wanted, rest, counts) if wanted < size else 0


@compile_for("int64(int32[::1], int64, int64[::1], int64[::1], int64[::1])")
def _guess(bits: Bits, k: int, keys: Ints, rest: Ints, counts: Ints) -> int:
    """Sample a vector, and return `threshold_of` for it."""
    for number in range(sample_of(len(bits), k) // 8):
        start = run_of(len(bits), k, number)
        for j in range(8):
            keys[number * 8 + j] = bits[start + j] & SIZE
    return threshold_of(len(bits), k, keys, rest, counts)


@compile_for("int64(int32[::1], int64, int64, int64, int64[::1], int64)")
def _append(bits: Bits, start: int, end: int, threshold: int, keys: Ints, m: int) -> int:
    """Append the keys of bits[start:end] that reach the threshold to keys[:m]; return the new number of keys."""
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
    """Collect the keys that reach the threshold; return their number. If there are k, the k largest are among them.

    When the buffer is full, only the k largest stay, and the smallest of them gives the new threshold. This takes work
    for k keys after at least k new ones, so the total time is linear for any vector.
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
    # Use no more of the buffer than needed: if the threshold is 0, it fills up completely before there is a better one.
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
    """Compute `reference.segmented_topk` of float32 bits[d], spans[L, 2] and ks[L]; write it to out[sum of ks].

    Args:
        bits: the vector, read as integers.
        spans: starts and ends.
        ks: the number of elements to select from each span.
        out: the result.
        scratch: [2, m], overwritten; m is at least `buffer_size` of the longest span and the largest k.

    Raises:
        ValueError: a span does not lie in the vector, or its k exceeds its length.
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
    """Set `count` of the first d bits of `drawn`: those of the first distinct values of the stream modulo d."""
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
    """Compute `support.support` of keys[m], 0 < k <= d, with d bits of memory: [m, k]."""
    out = np.empty((len(keys), k), np.int64)
    drawn = np.empty((d + 63) // 64, np.uint64)
    rest = np.uint64(0) if 2 * k <= d else ~np.uint64(0)  # for 2 k > d the complement is drawn
    for row in range(len(keys)):
        _draw(keys[row], np.uint64(d), min(k, d - k), drawn)
        at = word = 0
        while at < k:
            bits = drawn[word] ^ rest
            while bits and at < k:  # in the last word, bits from d on are not valid
                out[row, at] = word * 64 + np.int64(lowest(bits))  # pyright: ignore[reportCallIssue]
                bits &= bits - ONE
                at += 1
            word += 1
    return out
