"""Triton's loops for selection and norms; one program handles one chunk of a span, or one span.

The bits of a float32 magnitude order as the magnitude does, so selection works on int32. Offsets are int64. The spans
are described by `table` i64[5, spans]: start and end in the vector, first chunk, one past the last chunk, and the start
if all spans were laid end to end. `owner` i64[chunks] is the span of each chunk.

Every result is the same in every run, because only integers are added by atomics. Branches on data are selections or
leave the program, and shapes are constants, so the compiled code is what the interpreter runs.
"""

# The loops are written in Triton's language, which Python's types do not describe.
# pyright: basic
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

SIZE = tl.constexpr(0x7FFFFFFF)
"""All bits of a float32 except its sign."""

OUTSIDE = tl.constexpr(-2)
"""The value of lanes outside a span: below every threshold, also below -1, which all magnitudes pass."""

BINS = tl.constexpr(256)
"""Bins of a histogram; Triton's histogram costs bins / 32 operations an element."""


@triton.jit
def _chunk(owner, table, spans, BLOCK: tl.constexpr):
    """This program's chunk, its span, its start in the span and in the vector, and its number of elements.

    Within a chunk int32 suffices; int64 would take twice the registers.
    """
    chunk = tl.program_id(0).to(tl.int64)
    span = tl.load(owner + chunk)
    inner = (chunk - tl.load(table + 2 * spans + span)) * BLOCK
    start = tl.load(table + span) + inner
    rest = tl.minimum(tl.load(table + spans + span) - start, BLOCK).to(tl.int32)
    return chunk, span, inner, start, rest


@triton.jit
def _sizes(bits, lane, inside):
    """The bits of the magnitudes at some indices; OUTSIDE for lanes that are not inside."""
    return tl.where(inside, tl.load(bits + lane, mask=inside, other=0) & SIZE, OUTSIDE)


@triton.jit
def guess(bits, table, spans, wanted, threshold, SAMPLE: tl.constexpr):
    """One program a span: a threshold just below the wanted-th largest magnitude of a sample, as bits.

    The sample is the whole of a short span. Of a longer one it has an element from each of SAMPLE equal stretches,
    shifted by the stretch's number, so that it does not stay in one column of a matrix. It stays in registers, and 31
    comparisons find the threshold bit by bit.
    """
    span = tl.program_id(0)
    start = tl.load(table + span)
    size = tl.load(table + spans + span) - start
    want = tl.load(wanted + span)
    lane = tl.arange(0, SAMPLE)
    stretch = tl.maximum(size // SAMPLE, 1).to(tl.int32)
    index = tl.where(size > SAMPLE, lane.to(tl.int64) * size // SAMPLE + lane * 7919 % stretch, lane)
    sizes = _sizes(bits + start, index, index < size)
    limit = tl.full((), 0, tl.int32)
    bit = tl.full((), 1 << 30, tl.int32)
    for _ in range(31):
        trial = limit | bit
        found = tl.sum((sizes >= trial).to(tl.int32), 0)
        limit = tl.where(found >= want, trial, limit)
        bit = bit >> 1
    tl.store(threshold + span, limit - 1)


@triton.jit
def count(bits, owner, table, spans, threshold, counts, TIES: tl.constexpr, BLOCK: tl.constexpr):
    """Count the magnitudes of each chunk above its span's threshold and equal to it: counts i32[chunks, 2]."""
    chunk, span, _, start, rest = _chunk(owner, table, spans, BLOCK)
    lane = tl.arange(0, BLOCK)
    sizes = _sizes(bits + start, lane, lane < rest)
    limit = tl.load(threshold + span)
    tl.store(counts + 2 * chunk, tl.sum((sizes > limit).to(tl.int32), 0))
    if TIES:
        tl.store(counts + 2 * chunk + 1, tl.sum((sizes == limit).to(tl.int32), 0))


@triton.jit
def scan(counts, table, spans, allowed, offsets, totals, TIES: tl.constexpr, STEP: tl.constexpr):
    """One program a span: compute the output offsets of its chunks' selections, i64[chunks, 2].

    The first column is the offset from the span's first selected element. The second is the number of elements before
    the chunk that equal the threshold; the first `allowed` of them in the span are selected.
    """
    span = tl.program_id(0)
    first = tl.load(table + 2 * spans + span)
    last = tl.load(table + 3 * spans + span)
    free = tl.full((), 0, tl.int64)
    if TIES:
        free = tl.load(allowed + span)
    kept = tl.full((), 0, tl.int64)
    equals = tl.full((), 0, tl.int64)
    for start in range(first, last, STEP):
        chunk = start + tl.arange(0, STEP)
        inside = chunk < last
        mine = tl.load(counts + 2 * chunk, mask=inside, other=0).to(tl.int64)
        if TIES:
            equal = tl.load(counts + 2 * chunk + 1, mask=inside, other=0).to(tl.int64)
            before = equals + tl.cumsum(equal, 0) - equal
            tl.store(offsets + 2 * chunk + 1, before, mask=inside)
            mine += tl.minimum(tl.maximum(free - before, 0), equal)
            equals += tl.sum(equal, 0)
        tl.store(offsets + 2 * chunk, kept + tl.cumsum(mine, 0) - mine, mask=inside)
        kept += tl.sum(mine, 0)
    tl.store(totals + span, kept)


@triton.jit
def write(
    bits,
    owner,
    table,
    spans,
    threshold,
    allowed,
    counts,
    offsets,
    bases,
    indices,
    magnitudes,
    TIES: tl.constexpr,
    MAGNITUDES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the indices of each chunk's selection in order, and, with MAGNITUDES, the bits of the magnitudes."""
    chunk, span, inner, start, rest = _chunk(owner, table, spans, BLOCK)
    found = tl.load(counts + 2 * chunk)
    if TIES:
        found += tl.load(counts + 2 * chunk + 1)
    if found == 0:  # if large elements are concentrated in few layers, most chunks need no second read
        return
    lane = tl.arange(0, BLOCK)
    sizes = _sizes(bits + start, lane, lane < rest)
    limit = tl.load(threshold + span)
    kept = sizes > limit
    if TIES:
        equal = sizes == limit
        free = tl.load(allowed + span) - tl.load(offsets + 2 * chunk + 1)
        free = tl.minimum(tl.maximum(free, 0), BLOCK).to(tl.int32)
        kept = kept | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= free))
    to = tl.load(bases + span) + tl.load(offsets + 2 * chunk)
    rank = tl.cumsum(kept.to(tl.int32), 0) - 1
    index = tl.load(table + 4 * spans + span) + inner
    tl.store(indices + to + rank, index + lane, mask=kept)
    if MAGNITUDES:
        tl.store(magnitudes + to + rank, sizes, mask=kept)


@triton.jit
def histogram(bits, owner, table, spans, prefix, counts, shift, width, BLOCK: tl.constexpr):
    """Count how often each digit follows the prefix, in counts i64[spans, BINS]; a digit has `width` <= 8 bits."""
    _, span, _, start, rest = _chunk(owner, table, spans, BLOCK)
    lane = tl.arange(0, BLOCK)
    sizes = _sizes(bits + start, lane, lane < rest)
    counted = (sizes >> (shift + width)) == tl.load(prefix + span)
    digits = tl.where(counted, (sizes >> shift) & ((1 << width) - 1), 0)
    bins = tl.arange(0, BINS)
    # Elements without the prefix were counted as digit 0; torch 2.6's Triton has no mask for histograms yet.
    surplus = BLOCK - tl.sum(counted.to(tl.int32), 0)
    found = tl.histogram(digits, BINS) - tl.where(bins == 0, surplus, 0)
    tl.atomic_add(counts + span * BINS + bins, found.to(tl.int64), mask=found > 0, sem="relaxed")


@triton.jit
def pick(counts, prefix, need, width):
    """One program a span: append the digit of the need-th largest to the prefix, and update `need` within that digit.

    Resets the counts to zero. A need of 0 gives a prefix of ones, which no finite magnitude has.
    """
    span = tl.program_id(0)
    index = span.to(tl.int64) * BINS + (BINS - 1) - tl.arange(0, BINS)
    found = tl.load(counts + index)
    tl.store(counts + index, tl.zeros_like(found))
    want = tl.load(need + span)
    above = tl.cumsum(found, 0) < want
    digit = BINS - 1 - tl.sum(above.to(tl.int32), 0)
    tl.store(prefix + span, (tl.load(prefix + span) << width) | digit)
    tl.store(need + span, want - tl.sum(tl.where(above, found, 0), 0))


@triton.jit
def squares(values, owner, table, spans, sums, BLOCK: tl.constexpr):
    """Sum each chunk's squares in float64: sums f64[chunks]."""
    chunk, _, _, start, rest = _chunk(owner, table, spans, BLOCK)
    lane = tl.arange(0, BLOCK)
    value = tl.load(values + start + lane, mask=lane < rest, other=0.0).to(tl.float64)
    tl.store(sums + chunk, tl.sum(value * value, 0))


@triton.jit
def gather(sums, table, spans, totals, STEP: tl.constexpr):
    """One program a span: sum its chunks' sums, always in the same order: totals f64[spans]."""
    span = tl.program_id(0)
    first = tl.load(table + 2 * spans + span)
    last = tl.load(table + 3 * spans + span)
    total = tl.full((), 0.0, tl.float64)
    for start in range(first, last, STEP):
        chunk = start + tl.arange(0, STEP)
        total += tl.sum(tl.load(sums + chunk, mask=chunk < last, other=0.0), 0)
    tl.store(totals + span, total)
