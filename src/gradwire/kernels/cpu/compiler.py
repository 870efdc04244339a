"""Eager compilation with Numba, and intrinsics that Numba lacks, such as 64 comparisons as one number.

Importing a decorated function compiles it for the given types only, or loads it from Numba's cache: beside the source
files if that folder is writable, else in the user's cache directory, or in NUMBA_CACHE_DIR.
"""

# pyright: basic, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

Ints: TypeAlias = npt.NDArray[np.int64]
Bits: TypeAlias = npt.NDArray[np.int32]
Words: TypeAlias = npt.NDArray[np.uint64]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Wide: TypeAlias = npt.NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])

SIZE = np.int32(0x7FFFFFFF)
"""All bits of a float32 except its sign."""

INFINITE = np.int32(0x7F800000)
"""The bits of infinity, the smallest magnitude that is not finite; as a threshold, no finite value reaches it."""

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""The constants of SplitMix64, as in splitmix.py."""

HALF = types.uint16
"""The element type of bfloat16 arrays, as bits, because Numba has no bfloat16."""

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()


def compile_for(*signatures: str, **options: Any) -> Callable[[F], F]:
    """Compile for these signatures now, or load from the cache; without a writable cache, compile in every process."""

    def decorate(function: F) -> F:
        njit: Any = numba.njit
        settings = {"nogil": True, "error_model": "numpy", **options}
        try:
            return njit(list(signatures), cache=True, **settings)(function)
        except RuntimeError:
            return njit(list(signatures), **settings)(function)

    return decorate


@intrinsic
def lowest(typing: Any, word: Any) -> Any:
    """The position of the lowest set bit of a nonzero uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(I1, 1))

    return types.int64(types.uint64), generate


@intrinsic
def hashed(typing: Any, key: Any, index: Any) -> Any:
    """SplitMix64's output number `index`, counted from 0, as a uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _hash(builder, *arguments)

    return types.uint64(types.uint64, types.int64), generate


def _hash(builder: Any, key: Any, index: Any, count: int = 0) -> Any:
    """SplitMix64's output number `index`, or, with `count`, a vector of `count` outputs from that one on."""

    def number(value: int) -> Any:
        return ir.Constant(ir.VectorType(I64, count), [value] * count) if count else I64(value)

    def mixed(z: Any, shift: int, factor: int) -> Any:
        return builder.mul(builder.xor(z, builder.lshr(z, number(shift))), number(factor))

    z = builder.add(key, builder.mul(builder.add(index, I64(1)), I64(GOLDEN)))
    if count:
        steps = [GOLDEN * step % 2**64 for step in range(count)]
        z = builder.add(_in_all(builder, z, I64, count), ir.Constant(ir.VectorType(I64, count), steps))
    z = mixed(mixed(z, 30, FIRST), 27, SECOND)
    return builder.xor(z, builder.lshr(z, number(31)))


def _lanes(context: Any, builder: Any, kind: Any, array: Any, start: Any, lane: Any) -> Any:
    """A pointer to elements [start : start + 64] of an array, as a vector."""
    memory = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(memory, [start]), ir.VectorType(lane, 64).as_pointer())


def _in_all(builder: Any, number: Any, lane: Any, count: int = 64) -> Any:
    """A vector with a number in all lanes."""
    first = builder.insert_element(ir.Constant(ir.VectorType(lane, count), ir.Undefined), number, I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(I32, count), [0] * count))


def _reaching(builder: Any, bits: Any, threshold: Any) -> Any:
    """Which of 64 magnitudes reach a threshold, as the bits of an i64."""
    sizes = builder.and_(bits, ir.Constant(ir.VectorType(I32, 64), [int(SIZE)] * 64))
    return builder.bitcast(builder.icmp_signed(">=", sizes, _in_all(builder, threshold, I32)), I64)


@intrinsic
def reaching(typing: Any, bits: Any, at: Any, threshold: Any) -> Any:
    """Which of the 64 magnitudes in i32 bits[at : at + 64] reach a threshold, as the bits of a uint64, first lowest.

    This is a vector comparison whose result is read as a number: four instructions with 512-bit vectors, which LLVM
    does not find for a loop over single elements.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, threshold = arguments
        block = builder.load(_lanes(context, builder, signature.args[0], array, start, I32), align=1)
        return _reaching(builder, block, threshold)

    return types.uint64(bits, types.int64, types.int32), generate


@intrinsic
def accumulate(
    typing: Any, source: Any, at: Any, memory: Any, target: Any, to: Any, threshold: Any, decay: Any, key: Any
) -> Any:
    """Compute target[to : to + 64] = source[at : at + 64] + decay * memory[to : to + 64], and set source to zero.

    The product is rounded before the addition, as in two separate passes. Memory and target may be bfloat16 (half.py):
    the sum is then rounded stochastically, and `to` must be a multiple of 4.

    Returns which of the 64 written magnitudes reach a threshold, as `reaching` does.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = ir.VectorType(F32, 64)
        given = _lanes(context, builder, signature.args[0], *arguments[:2], F32)
        held = _floats(context, builder, signature.args[2], arguments[2], arguments[4])
        product = builder.fmul(held, _in_all(builder, arguments[6], F32))
        total = builder.fadd(builder.load(given, align=4), product)
        bits = builder.bitcast(total, ir.VectorType(I32, 64))
        if target.dtype == HALF:
            first = builder.lshr(arguments[4], I64(2))
            drawn = builder.bitcast(_hash(builder, arguments[7], first, 16), ir.VectorType(I16, 64))
            bits = _rounded(builder, bits, drawn)
            upper = builder.lshr(bits, ir.Constant(ir.VectorType(I32, 64), [16] * 64))
            sums = _lanes(context, builder, signature.args[3], arguments[3], arguments[4], I16)
            builder.store(builder.trunc(upper, ir.VectorType(I16, 64)), sums, align=2)
        else:
            sums = _lanes(context, builder, signature.args[3], arguments[3], arguments[4], F32)
            builder.store(total, sums, align=4)
        builder.store(ir.Constant(lanes, [0.0] * 64), given, align=4)
        return _reaching(builder, bits, arguments[5])

    found = types.uint64(source, types.int64, memory, target, types.int64, types.int32, types.float32, types.uint64)
    return found, generate


def _floats(context: Any, builder: Any, kind: Any, array: Any, start: Any) -> Any:
    """Read elements [start : start + 64] of a float32 or bfloat16 array as float32."""
    if kind.dtype != HALF:
        return builder.load(_lanes(context, builder, kind, array, start, F32), align=4)
    upper = builder.load(_lanes(context, builder, kind, array, start, I16), align=2)
    wide = ir.VectorType(I32, 64)
    return builder.bitcast(builder.shl(builder.zext(upper, wide), ir.Constant(wide, [16] * 64)), ir.VectorType(F32, 64))


def _rounded(builder: Any, bits: Any, drawn: Any) -> Any:
    """Round float32 bits, a vector or one number, stochastically to their upper half; clears the lower half."""
    lanes = isinstance(bits.type, ir.VectorType)

    def number(value: int) -> Any:
        return ir.Constant(bits.type, [value] * 64 if lanes else value)

    finite = builder.icmp_signed("<", builder.and_(bits, number(int(SIZE))), number(int(INFINITE)))
    carry = builder.select(finite, builder.zext(drawn, bits.type), number(0))
    return builder.and_(builder.add(bits, carry), number(-(2**16)))


@intrinsic
def value_of(typing: Any, array: Any, at: Any) -> Any:
    """Element `at` of a float32 or bfloat16 array, as a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(_bits_of(context, builder, signature.args[0], *arguments), F32)

    return types.float32(array, types.int64), generate


def _bits_of(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Element `at` of a float32 or bfloat16 array, as the bits of a float32."""
    memory = context.make_array(kind)(context, builder, array).data
    element = builder.load(builder.gep(memory, [at]))
    if kind.dtype != HALF:
        return builder.bitcast(element, I32)
    return builder.shl(builder.zext(element, I32), I32(16))


@intrinsic
def size_of(typing: Any, array: Any, at: Any) -> Any:
    """The bits of the magnitude of element `at`, as an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.and_(_bits_of(context, builder, signature.args[0], *arguments), I32(int(SIZE)))

    return types.int32(array, types.int64), generate


@intrinsic
def put(typing: Any, array: Any, at: Any, value: Any, key: Any) -> Any:
    """Write a float32 to element `at`; in a bfloat16 array it is rounded stochastically by word `at` of a key."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given, at, value, key = arguments
        element = builder.gep(context.make_array(array)(context, builder, given).data, [at])
        if array.dtype == HALF:
            place = builder.shl(builder.and_(at, I64(3)), I64(4))
            drawn = builder.trunc(builder.lshr(_hash(builder, key, builder.lshr(at, I64(2))), place), I16)
            bits = _rounded(builder, builder.bitcast(value, I32), drawn)
            value = builder.trunc(builder.lshr(bits, I32(16)), I16)
        builder.store(value, element)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.float32, types.uint64), generate


@intrinsic
def squares(typing: Any, values: Any, at: Any) -> Any:
    """The sum of the squares of f32 or bf16 values[at : at + 64] in float64, always in the same order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = _floats(context, builder, signature.args[0], *arguments)
        wide = builder.fpext(block, ir.VectorType(F64, 64))
        total, lanes = builder.fmul(wide, wide), 32
        while lanes:
            low, high = (
                builder.shuffle_vector(
                    total, total, ir.Constant(ir.VectorType(I32, lanes), list(range(at, at + lanes)))
                )
                for at in (0, lanes)
            )
            total, lanes = builder.fadd(low, high), lanes // 2
        return builder.extract_element(total, I32(0))

    return types.float64(values, types.int64), generate


@intrinsic
def beyond(typing: Any, lanes: Any, at: Any, threshold: Any) -> Any:
    """Which of the 64 numbers in i32 or u8 lanes[at : at + 64] exceed the threshold in an unsigned comparison."""
    lane, kind = (I8, types.uint8) if lanes.dtype == types.uint8 else (I32, types.int32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, threshold = arguments
        block = builder.load(_lanes(context, builder, signature.args[0], array, start, lane), align=1)
        return builder.bitcast(builder.icmp_unsigned(">", block, _in_all(builder, threshold, lane)), I64)

    return types.uint64(lanes, types.int64, kind), generate


def _eight(context: Any, builder: Any, signature: Any, array: Any, at: Any) -> Any:
    memory = context.make_array(signature.args[0])(context, builder, array).data
    return builder.bitcast(builder.gep(memory, [at]), I64.as_pointer())


@intrinsic
def load(typing: Any, wire: Any, at: Any) -> Any:
    """Read u8[at : at + 8] as a little-endian uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_eight(context, builder, signature, *arguments), align=1)

    return types.uint64(wire, types.int64), generate


@intrinsic
def store(typing: Any, wire: Any, at: Any, word: Any) -> Any:
    """Write a uint64 to u8[at : at + 8], little-endian."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _eight(context, builder, signature, *arguments[:2]), align=1)
        return context.get_dummy_value()

    return types.void(wire, types.int64, types.uint64), generate


@intrinsic
def as_integer(typing: Any, number: Any) -> Any:
    """The bits of a float64 as an int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], I64)

    return types.int64(types.float64), generate
