"""A sum computed in one pass that also collects what is large, and layers' norms: Numba's loops."""

# pyright: basic, reportCallIssue=false

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire.kernels.cpu.compiler import (
    INFINITE,
    SIZE,
    Floats,
    Ints,
    Wide,
    accumulate,
    compile_for,
    lowest,
    squares,
)
from gradwire.kernels.cpu.selection import BINS, LAST, kth_largest, run_of, sample_of, threshold_of

ONE = np.uint64(1)


@compile_for("int64(float32[::1], float32[::1], float32, int64, int64, int64[::1], int64)")
def sample(source: Floats, residual: Floats, decay: Any, at: int, k: int, sampled: Ints, count: int) -> int:
    """Write magnitudes' bits of source f32[m] + decay * residual[at : at + m], of those in the sample of residual[d].

    They go behind the first `count` of those sampled; returns how many there are then.
    """
    d = len(residual)
    runs = sample_of(d, k) // 8
    for number in range(at // (d // runs), runs):
        start = run_of(d, k, number) - at
        if start >= len(source):
            break
        for i in range(max(start, 0), min(start + 8, len(source))):
            sampled[count] = np.float32(source[i] + decay * residual[at + i]).view(np.int32) & SIZE
            count += 1
    return count


@compile_for("int64(int64, int64, int64[::1], int64[::1])")
def threshold(d: int, k: int, sampled: Ints, rest: Ints) -> int:
    """The bits of a magnitude that k of d elements or a few more reach, most likely: by the whole sample."""
    return threshold_of(d, k, sampled, rest, np.empty(BINS, np.int64))


@compile_for(
    "Tuple((int64, int64, float64))(float32[::1], float32[::1], float32, float32[::1], int64, int64, int64, int32,"
    " int64[::1], int64, boolean)"
)
def _stretch(
    source: Floats,
    residual: Floats,
    decay: Any,
    target: Floats,
    at: int,
    start: int,
    end: int,
    threshold: Any,
    keys: Ints,
    found: int,
    measured: Any,
) -> Any:
    """`move` of source[start:end] alone; the third is the sum of the squares of what it writes, if that is measured."""
    bits = target.view(np.int32)
    sound, total, whole = 1, 0.0, start + (end - start) // 64 * 64
    for here in range(start, whole, 64):
        reached = np.uint64(accumulate(source, here, residual, target, at + here, threshold, decay))
        if measured:
            total += squares(target, at + here)
        if reached and not 0 <= found <= len(keys) - 64:
            found = -1
        while reached:
            i = at + here + np.int64(lowest(reached))
            reached &= reached - ONE
            size = bits[i] & SIZE
            if size >= INFINITE:
                sound = 0
            if found >= 0:
                keys[found] = np.int64(size) << 32 | LAST - i
                found += 1
    for here in range(whole, end):
        i = at + here
        target[i] = source[here] + decay * residual[i]
        source[here] = 0.0
        value = np.float64(target[i])
        total += value * value
        size = bits[i] & SIZE
        if size >= INFINITE:
            sound = 0
        if size >= threshold:
            if 0 <= found < len(keys):
                keys[found] = np.int64(size) << 32 | LAST - i
                found += 1
            else:
                found = -1
    return found, sound, total


@compile_for(
    "UniTuple(int64, 2)(float32[::1], float32[::1], float32, float32[::1], int64, int32, int64[::1], int64, int64[::1],"
    " float64[::1])"
)
def move(
    source: Floats,
    residual: Floats,
    decay: Any,
    target: Floats,
    at: int,
    threshold: Any,
    keys: Ints,
    found: int,
    ends: Ints,
    sums: Wide,
) -> Any:
    """target[at : at + m] = source f32[m] + decay * residual[at : at + m], and zeros stay behind in source.

    Args:
        threshold: bits of a magnitude, at most INFINITE. The keys (see selection.py) of sums that reach it are
            collected.
        keys: where, behind the first `found`.
        found: keys there are; below zero: collect no more.
        ends: where layers of the vector end, which lie one after the other and make up all of it; or nothing.
        sums: of each layer, to which the squares of its sums are added.

    Returns:
        The keys there are now, -1 if they did not all fit; and whether (1 or 0) all sums are finite.

    Raises:
        ValueError: target or residual is too short.
    """
    if not 0 <= at <= min(len(target), len(residual)) - len(source):
        raise ValueError("a piece does not fit into the vector")
    sound, start, layer = 1, 0, np.searchsorted(ends, at, side="right")
    while start < len(source):
        end = len(source)
        if layer < len(ends):
            end = min(end, ends[layer] - at)
        found, clean, total = _stretch(
            source, residual, decay, target, at, start, end, threshold, keys, found, layer < len(ends)
        )
        if layer < len(ends):
            sums[layer] += total
        sound &= clean
        start = end
        layer += 1
    return found, sound


@compile_for("void(int64[::1], int64[::1], int64[::1])")
def among(keys: Ints, out: Ints, rest: Ints) -> None:
    """Write the indices of the k largest of keys[m] to out[k], 0 < k <= m, in their order; rest[m] is written over."""
    smallest = kth_largest(keys, len(keys), len(out), rest, np.empty(BINS, np.int64))
    at = i = 0
    while at < len(out):
        out[at] = LAST - (keys[i] & LAST)
        at += keys[i] >= smallest
        i += 1
