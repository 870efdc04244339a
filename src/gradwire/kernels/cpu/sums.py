"""Numba's loops for norms in float64, indices above a threshold, copies and sparse updates."""

# pyright: basic, reportCallIssue=false

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwire.kernels.cpu.compiler import (
    INFINITE,
    SIZE,
    Bits,
    Floats,
    Ints,
    Wide,
    compile_for,
    lowest,
    reaching,
    squares,
)

ONE = np.uint64(1)


@compile_for("float64(float32[::1], int64, int64)")
def squared(x: Floats, start: int, end: int) -> float:
    """The sum of the squares of f32 x[start:end] in float64, where squares of float32 do not overflow."""
    total, whole = 0.0, start + (end - start) // 64 * 64
    for at in range(start, whole, 64):
        total += squares(x, at)
    for i in range(whole, end):
        value = np.float64(x[i])
        total += value * value
    return total


@compile_for("float64[::1](float32[::1], int64[:,::1])")
def norms(x: Floats, spans: Ints) -> Wide:
    """L2 norms of spans[L, 2] of f32[d], summed in float64.

    Raises:
        ValueError: a span does not lie in the vector.
    """
    out = np.empty(len(spans))
    for i in range(len(spans)):
        start, end = spans[i]
        if not 0 <= start <= end <= len(x):
            raise ValueError("a span does not fit the vector")
        out[i] = math.sqrt(squared(x, start, end))
    return out


@compile_for("int64(int32[::1], int32, int64[::1])")
def indices_above(bits: Bits, threshold: Any, out: Ints) -> int:
    """Write the indices of float32 bits[d] whose magnitudes reach `threshold` to out i64[d]; return their number."""
    m, whole = 0, len(bits) // 64 * 64
    for at in range(0, whole, 64):
        reached = np.uint64(reaching(bits, at, threshold))
        while reached:
            out[m] = at + lowest(reached)
            reached &= reached - ONE
            m += 1
    for i in range(whole, len(bits)):
        if bits[i] & SIZE >= threshold:
            out[m] = i
            m += 1
    return m


@compile_for("boolean(int32[::1], int32[::1])")
def copy(source: Bits, target: Bits) -> Any:
    """Copy float32 bits[d] to target; return whether all values are finite.

    Raises:
        ValueError: the lengths differ.
    """
    if len(source) != len(target):
        raise ValueError("a copy is as long as what it is of")
    largest = np.int32(0)
    for i in range(len(source)):
        bits = source[i]
        target[i] = bits
        largest = max(largest, bits & SIZE)
    return largest < INFINITE


@compile_for("void(float32[::1], int64[::1], float32[::1], int64[::1], int64[::1])")
def scatter(target: Floats, indices: Ints, values: Floats, ends: Ints, starts: Ints) -> None:
    """Compute `reference.scatter_`. A piece is searched only when an index leaves the last one: rare if sorted.

    Raises:
        ValueError: an index or its piece lies outside; values before it have been added.
    """
    at = 0
    while at < len(indices):
        if not 0 <= indices[at] < ends[-1]:
            raise ValueError("an index lies outside the vector")
        piece = np.searchsorted(ends, indices[at], side="right")
        low, high, start = (ends[piece - 1] if piece > 0 else 0), ends[piece], starts[piece]
        end = at + 1
        while end < len(indices) and low <= indices[end] < high:
            end += 1
        if start >= 0:
            if start + high - low > len(target):
                raise ValueError("a piece lies outside the target")
            for i in range(at, end):
                target[np.uint64(indices[i] - low + start)] += values[
                    i
                ]  # unsigned, so that negative indices do not wrap
        at = end
