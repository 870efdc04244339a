"""Norms in float64, and places that reach a threshold: Numba's loops."""

# pyright: basic, reportCallIssue=false

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwire.kernels.cpu.compiler import SIZE, Bits, Floats, Ints, Wide, compile_for, lowest, reaching

ONE = np.uint64(1)

INFINITE = np.int32(0x7F800000)
"""Bits of the least magnitude that is not finite."""


# The sum in lanes of the machine's width: one order of summation on one machine.
@compile_for("float64[::1](float32[::1], int64[:,::1])", fastmath={"reassoc", "contract", "nsz"})
def norms(x: Floats, spans: Ints) -> Wide:
    """L2 norms of the spans[L, 2] of f32[d], summed in float64, where no float32's square overflows.

    Raises:
        ValueError: a span that does not fit.
    """
    out = np.empty(len(spans))
    for i in range(len(spans)):
        start, end = spans[i]
        if not 0 <= start <= end <= len(x):
            raise ValueError("a span does not fit the vector")
        piece, total = x[start:end], 0.0
        for j in range(len(piece)):
            value = np.float64(piece[j])
            total += value * value
        out[i] = math.sqrt(total)
    return out


@compile_for("int64(int32[::1], int32, int64[::1])")
def passing(bits: Bits, least: Any, out: Ints) -> int:
    """Write the places of float32 bits[d] whose magnitude's bits reach `least` to out i64[d]; return how many."""
    m, whole = 0, len(bits) // 64 * 64
    for at in range(0, whole, 64):
        reach = np.uint64(reaching(bits, at, least))
        while reach:
            out[m] = at + lowest(reach)
            reach &= reach - ONE
            m += 1
    for i in range(whole, len(bits)):
        if bits[i] & SIZE >= least:
            out[m] = i
            m += 1
    return m


@compile_for("boolean(int32[::1], int32[::1], boolean)")
def copy(source: Bits, target: Bits, clear: Any) -> Any:
    """Copy float32 bits[d] to bits[d], leave zeros behind if `clear`; return whether all of them are finite.

    Raises:
        ValueError: the lengths differ.
    """
    if len(source) != len(target):
        raise ValueError("a copy is as long as what it is of")
    largest = np.int32(0)
    if clear:
        for i in range(len(source)):
            bits = source[i]
            target[i] = bits
            source[i] = 0
            largest = max(largest, bits & SIZE)
    else:
        for i in range(len(source)):
            bits = source[i]
            target[i] = bits
            largest = max(largest, bits & SIZE)
    return largest < INFINITE


@compile_for("void(float32[::1], int64[::1], float32[::1], int64[::1], int64[::1])")
def spread(target: Floats, indices: Ints, values: Floats, ends: Ints, starts: Ints) -> None:
    """Do what `reference.spread_` does. Sorted indices find their piece in one step, others by going through all.

    Raises:
        ValueError: an index or its place lies outside; what comes before it has been added.
    """
    piece = 0
    for i in range(len(indices)):
        index = indices[i]
        if not 0 <= index < ends[-1]:
            raise ValueError("an index lies outside the vector")
        if piece > 0 and index < ends[piece - 1]:
            piece = 0
        while index >= ends[piece]:
            piece += 1
        if starts[piece] >= 0:
            place = starts[piece] + index - (ends[piece - 1] if piece > 0 else 0)
            if place >= len(target):
                raise ValueError("a place lies outside the target")
            target[place] += values[i]
