"""Exact selection on a GPU: a sample sets a threshold, two reads collect the few that pass it, and those are refined.

  guess      one program a span reads a sample of at most SAMPLE elements and finds what k or a few more reach.
  collect    the vector is read to count what passes in each chunk, and again to write it, so that indices come out
             increasing whatever the order in which programs run; a chunk where nothing passed is not read again.
  refine     four histograms of eight bits each over what was collected find the k-th largest magnitude itself and
             how many of its equals belong to the selection; those are collected in the same two steps.

That is two reads of the vector, the least that a deterministic order takes without waiting for one another's counts,
and one transfer of a number a span to the host, which must know how much to reserve. All other numbers stay on the
device. Where the guess failed, because a sample misled or because too many are equal, the refinement runs on the
whole vector: six reads, and no transfer. Spans are chunked and go through the same launches, however many there are.

Why a sample and no histogram of the whole: a histogram of all elements costs more than another read of them, in
Triton some BINS / 32 operations an element.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire.kernels.gpu import loops
from gradwire.kernels.gpu.chunks import Chunks, cut, launch, upload

SAMPLE = 8192
"""Elements of a span that set its threshold."""

LONG = 1 << 16
"""From here on sampling costs less than it saves."""

STEP = 2048
"""Chunks whose counts one program sums at a time, at most."""

REGISTERS = 64
"""Of a thread that writes, so that four programs share a multiprocessor: it waits for memory, not for arithmetic."""

BINS = 256
"""Of a histogram, as many as loops.BINS."""

DIGITS = ((23, 8), (15, 8), (7, 8), (0, 7))
"""Shift and width of the parts of a magnitude's 31 bits."""


def segmented_topk(x: Tensor, spans: Sequence[tuple[int, int]], ks: Sequence[int]) -> Tensor:
    """`reference.segmented_topk` of what `gpu.serves` takes."""
    if len(spans) != len(ks):
        raise ValueError(f"every span needs its k, got {len(spans)} spans and {len(ks)} ks")
    if any(not 0 <= k <= end - start for (start, end), k in zip(spans, ks, strict=True)):
        raise ValueError("a span or its k does not fit the vector")
    chunks, bits = cut(spans, x), x.detach().view(torch.int32)
    if sum(ks) == 0:
        return torch.empty(0, dtype=torch.int64, device=x.device)
    if chunks.length >= LONG and 4 * sum(ks) <= chunks.length:
        found = _among_few(bits, chunks, ks)
        if found is not None:
            return found
    return _exactly(bits, chunks, ks)


def indices_above(x: Tensor, threshold: float) -> Tensor:
    """`reference.indices_above` of what `gpu.serves` takes, for a threshold above 0."""
    chunks, bits = cut([(0, len(x))], x), x.detach().view(torch.int32)
    # Torch compares float32 with float32. Where the threshold is 0, everything passes -1.
    below = int(torch.tensor(threshold, dtype=torch.float32).view(torch.int32)) - 1
    picked = _collect(bits, chunks, Limit(upload([below], x, torch.int32)))
    return picked.written(cast(list[int], picked.totals.tolist()))[0]


@dataclass(frozen=True)
class Limit:
    """What is selected of a span: bits over `above` i32[spans], and of its equals the first `allowed` i64[spans]."""

    above: Tensor
    allowed: Tensor | None = None


@dataclass(frozen=True)
class Collected:
    """What passes a threshold, counted chunk by chunk but not yet written."""

    bits: Tensor
    chunks: Chunks
    threshold: Limit
    counts: Tensor
    offsets: Tensor
    totals: Tensor

    def written(self, totals: Sequence[int], magnitudes: bool = False) -> tuple[Tensor, Tensor]:
        """Places int64[sum of totals] in the spans laid end to end, and bits of the magnitudes there if asked for."""
        starts = list(itertools.accumulate(totals, initial=0))
        indices = torch.empty(starts[-1], dtype=torch.int64, device=self.bits.device)
        sizes = torch.empty(starts[-1] if magnitudes else 0, dtype=torch.int32, device=self.bits.device)
        ties, chunks = self.threshold.allowed is not None, self.chunks
        allowed = self.totals if self.threshold.allowed is None else self.threshold.allowed
        launch(
            loops.write, chunks.count,
            self.bits, chunks.owner, chunks.table, chunks.spans, self.threshold.above, allowed, self.counts,
            self.offsets, upload(starts[:-1], self.bits), indices, sizes,
            TIES=ties, MAGNITUDES=magnitudes, BLOCK=chunks.block, num_warps=8, maxnreg=REGISTERS,
        )  # fmt: skip
        return indices, sizes


def _among_few(bits: Tensor, chunks: Chunks, ks: Sequence[int]) -> Tensor | None:
    """The selection by way of a guessed threshold, or None where too few pass it or too many."""
    picked = _collect(bits, chunks, Limit(_guess(bits, chunks, ks)))
    totals = cast(list[int], picked.totals.tolist())
    if any(m < k for m, k in zip(totals, ks, strict=True)) or 2 * sum(totals) > chunks.length:
        return None
    indices, sizes = picked.written(totals, magnitudes=True)
    if totals == list(ks):
        return indices
    pieces = list(itertools.pairwise(itertools.accumulate(totals, initial=0)))
    return indices.index_select(0, _exactly(sizes, cut(pieces, sizes), ks))


def _guess(bits: Tensor, chunks: Chunks, ks: Sequence[int]) -> Tensor:
    """Of each span, bits above which most likely lie those of its k-th largest magnitude: i32[spans]."""
    sample = min(SAMPLE, max(256, 1 << (chunks.longest - 1).bit_length()))
    wanted = upload([_wanted(n, k, sample) for n, k in zip(chunks.lengths, ks, strict=True)], bits)
    threshold = torch.empty(chunks.spans, dtype=torch.int32, device=bits.device)
    launch(loops.guess, chunks.spans, bits, chunks.table, chunks.spans, wanted, threshold, SAMPLE=sample, num_warps=8)
    return threshold


def _wanted(n: int, k: int, sample: int) -> int:
    """Of a sample of n elements, how many shall reach the threshold; more than there are for a threshold of 0."""
    if n <= sample or k == 0:
        return k
    expected = k / n * sample
    # Four standard deviations more than expected: too few would cost three times the whole.
    return math.ceil(expected + 4 * math.sqrt(expected) + 4)


def _exactly(bits: Tensor, chunks: Chunks, ks: Sequence[int]) -> Tensor:
    """The selection by the k-th largest of each span itself."""
    prefix = torch.zeros(chunks.spans, dtype=torch.int32, device=bits.device)
    need = upload(ks, bits)
    counts = torch.zeros((chunks.spans, BINS), dtype=torch.int64, device=bits.device)
    for shift, width in DIGITS:
        launch(
            loops.histogram, chunks.count,
            bits, chunks.owner, chunks.table, chunks.spans, prefix, counts, shift, width,
            BLOCK=chunks.block, num_warps=8,
        )  # fmt: skip
        launch(loops.pick, chunks.spans, counts, prefix, need, width, num_warps=4)
    return _collect(bits, chunks, Limit(prefix, need)).written(ks)[0]


def _collect(bits: Tensor, chunks: Chunks, threshold: Limit) -> Collected:
    """Count what passes, and tell each chunk where its selection will go."""
    counts = torch.empty((chunks.count, 2), dtype=torch.int32, device=bits.device)
    offsets = torch.empty((chunks.count, 2), dtype=torch.int64, device=bits.device)
    totals = torch.empty(chunks.spans, dtype=torch.int64, device=bits.device)
    ties, allowed = threshold.allowed is not None, totals if threshold.allowed is None else threshold.allowed
    launch(
        loops.count, chunks.count,
        bits, chunks.owner, chunks.table, chunks.spans, threshold.above, counts,
        TIES=ties, BLOCK=chunks.block, num_warps=8,
    )  # fmt: skip
    launch(
        loops.scan, chunks.spans,
        counts, chunks.table, chunks.spans, allowed, offsets, totals,
        TIES=ties, STEP=chunks.steps(STEP), num_warps=8,
    )  # fmt: skip
    return Collected(bits, chunks, threshold, counts, offsets, totals)
