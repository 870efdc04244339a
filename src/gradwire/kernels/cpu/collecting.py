"""Numba's loops for a sum in one pass that also collects large elements and measures layers' norms.

The residual and the sum are float32 or bfloat16 arrays (compiler.HALF); each loop is compiled for both. Sums in
bfloat16 are rounded stochastically by a key (half.py), which is not used for float32.
"""

# pyright: basic, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

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
    put,
    size_of,
    squares,
    value_of,
)
from gradwire.kernels.cpu.selection import BINS, LAST, kth_largest, run_of, sample_of, threshold_of

ONE = np.uint64(1)
F = TypeVar("F", bound=Callable[..., Any])


def for_both(signature: str) -> Callable[[F], F]:
    """Compile a loop for residuals X of float32 and of bfloat16."""
    return compile_for(*(signature.replace("X", kind) for kind in ("float32[::1]", "uint16[::1]")))


@for_both("int64(float32[::1], X, float32, int64, int64, int64[::1], int64)")
def sample(source: Floats, residual: Floats, decay: Any, at: int, k: int, sampled: Ints, count: int) -> int:
    """Sample source f32[m] + decay * residual[at : at + m]; write the magnitudes' bits to `sampled`.

    The sample's places are chosen in all d elements of the residual. Bits are written behind the first `count`; returns
    the new count.
    """
    d = len(residual)
    runs = sample_of(d, k) // 8
    for number in range(at // (d // runs), runs):
        start = run_of(d, k, number) - at
        if start >= len(source):
            break
        for i in range(max(start, 0), min(start + 8, len(source))):
            sampled[count] = np.float32(source[i] + decay * value_of(residual, at + i)).view(np.int32) & SIZE
            count += 1
    return count


@compile_for("int64(int64, int64, int64[::1], int64[::1])")
def threshold(d: int, k: int, sampled: Ints, rest: Ints) -> int:
    """The bits of a magnitude that most likely k of d elements or a few more reach, from the whole sample."""
    return threshold_of(d, k, sampled, rest, np.empty(BINS, np.int64))


@for_both(
    "Tuple((int64, int64, float64))(float32[::1], X, float32, X, int64, int64, int64, int32, int64[::1], int64,"
    " float64, uint64)"
)
def _singly(
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
    total: float,
    key: Any,
) -> Any:
    """Do `_stretch` for few elements, one by one; adds the squares to `total`."""
    sound = 1
    for here in range(start, end):
        i = at + here
        put(target, i, np.float32(source[here] + decay * value_of(residual, i)), key)
        source[here] = 0.0
        value = np.float64(value_of(target, i))
        total += value * value
        size = size_of(target, i)
        if size >= INFINITE:
            sound = 0
        if size >= threshold:
            if 0 <= found < len(keys):
                keys[found] = np.int64(size) << 32 | LAST - i
                found += 1
            else:
                found = -1
    return found, sound, total


@for_both(
    "Tuple((int64, int64, float64))(float32[::1], X, float32, X, int64, int64, int64, int32, int64[::1], int64,"
    " boolean, uint64)"
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
    key: Any,
) -> Any:
    """Do `move` for source[start:end]; also returns the sum of the squares of the written values, if `measured`."""
    sound, total, first = 1, 0.0, start
    if target.itemsize == 2:  # one random word serves four elements, from an index divisible by 4 on
        first = min(end, start + (-(at + start) & 3))
        found, sound, total = _singly(
            source, residual, decay, target, at, start, first, threshold, keys, found, total, key
        )
    whole = first + (end - first) // 64 * 64
    for here in range(first, whole, 64):
        reached = np.uint64(accumulate(source, here, residual, target, at + here, threshold, decay, key))
        if measured:
            total += squares(target, at + here)
        if reached and not 0 <= found <= len(keys) - 64:
            found = -1
        while reached:
            i = at + here + np.int64(lowest(reached))
            reached &= reached - ONE
            size = size_of(target, i)
            if size >= INFINITE:
                sound = 0
            if found >= 0:
                keys[found] = np.int64(size) << 32 | LAST - i
                found += 1
    found, clean, total = _singly(source, residual, decay, target, at, whole, end, threshold, keys, found, total, key)
    return found, sound & clean, total


@for_both(
    "UniTuple(int64, 2)(float32[::1], X, float32, X, int64, int32, int64[::1], int64, int64[::1], float64[::1], uint64)"
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
    key: Any,
) -> Any:
    """Compute target[at : at + m] = source f32[m] + decay * residual[at : at + m], and set source to zero.

    Args:
        threshold: bits of a magnitude, at most INFINITE. The keys (see selection.py) of sums that reach it are
            collected.
        keys: receives the keys, behind the first `found`.
        found: the number of keys so far; if negative, no keys are collected.
        ends: the ends of consecutive layers that make up the vector; or empty.
        sums: for each layer, the sum to which the squares of its elements are added.
        key: for the stochastic rounding of bfloat16 sums.

    Returns:
        The number of keys now, or -1 if they did not all fit; and 1 if all sums are finite, else 0.

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
            source, residual, decay, target, at, start, end, threshold, keys, found, layer < len(ends), key
        )
        if layer < len(ends):
            sums[layer] += total
        sound &= clean
        start = end
        layer += 1
    return found, sound


@compile_for("void(int64[::1], int64[::1], int64[::1])")
def among(keys: Ints, out: Ints, rest: Ints) -> None:
    """Write the indices of the k largest of keys[m] to out[k], 0 < k <= m, in the keys' order; overwrites rest[m]."""
    smallest = kth_largest(keys, len(keys), len(out), rest, np.empty(BINS, np.int64))
    at = i = 0
    while at < len(out):
        out[at] = LAST - (keys[i] & LAST)
        at += keys[i] >= smallest
        i += 1
