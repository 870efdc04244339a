"""Exact selection on a GPU: a sample sets a threshold, two reads collect the elements that pass it, and these compete.

  guess      one program a span reads a sample of at most SAMPLE elements and finds a threshold that most likely k
             elements or a few more reach.
  collect    the vector is read once to count the passing elements of each chunk, and again to write them, so indices
             are increasing in any order of programs; chunks in which nothing passed are not read again.
  refine     four histograms of up to eight bits over the collected elements find the k-th largest magnitude, and how
             many of its equals are selected; the selection is collected in the same two steps.

So the vector is read twice, the minimum for a deterministic order in which programs do not wait for each other's
counts. One number a span is transferred to the host, which allocates the output. All other numbers stay on the device.
If the guess fails, because the sample misled or too many elements are equal, the refinement runs on the whole vector:
six reads, and no transfer. Spans are cut into chunks, so any number of them takes the same launches.

A histogram of the whole vector instead of a sample would cost more than another read: in Triton about BINS / 32
operations an element.
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
"""The most elements of a span's sample."""

LONG = 1 << 16
"""From this number of elements on, sampling costs less than it saves."""

STEP = 2048
"""The most chunks whose counts one program sums at a time."""

REGISTERS = 64
"""Registers of a thread in the writing loop, so that four programs fit on a multiprocessor: it is memory-bound."""

BINS = 256
"""Bins of a histogram, equal to loops.BINS."""

DIGITS = ((23, 8), (15, 8), (7, 8), (0, 7))
"""Shift and width of the digits of a magnitude's 31 bits."""


def segmented_topk(x: Tensor, spans: Sequence[tuple[int, int]], ks: Sequence[int]) -> Tensor:
    """Compute `reference.segmented_topk` of an x that `gpu.serves` accepts."""
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
    """Compute `reference.indices_above` of an x that `gpu.serves` accepts, for a threshold above 0."""
    chunks, bits = cut([(0, len(x))], x), x.detach().view(torch.int32)
    # The threshold is rounded to float32, as in torch's comparison. If it becomes 0, everything passes -1.
    below = int(torch.tensor(threshold, dtype=torch.float32).view(torch.int32)) - 1
    picked = _collect(bits, chunks, Limit(upload([below], x, torch.int32)))
    return picked.written(cast(list[int], picked.totals.tolist()))[0]


@dataclass(frozen=True)
class Limit:
    """The rule of selection: bits > above i32[spans], and of the equal ones the first `allowed` i64[spans]."""

    above: Tensor
    allowed: Tensor | None = None


@dataclass(frozen=True)
class Collected:
    """The elements that pass a threshold, counted for each chunk but not yet written."""

    bits: Tensor
    chunks: Chunks
    threshold: Limit
    counts: Tensor
    offsets: Tensor
    totals: Tensor

    def written(self, totals: Sequence[int], magnitudes: bool = False) -> tuple[Tensor, Tensor]:
        """Write the indices int64[sum of totals], in the spans laid end to end, and the magnitudes' bits if wanted."""
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
    """Select by a guessed threshold; None if too few or too many elements pass it."""
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
    """A threshold for each span that most likely its k-th largest magnitude exceeds, as bits i32[spans]."""
    sample = min(SAMPLE, max(256, 1 << (chunks.longest - 1).bit_length()))
    wanted = upload([_wanted(n, k, sample) for n, k in zip(chunks.lengths, ks, strict=True)], bits)
    threshold = torch.empty(chunks.spans, dtype=torch.int32, device=bits.device)
    launch(loops.guess, chunks.spans, bits, chunks.table, chunks.spans, wanted, threshold, SAMPLE=sample, num_warps=8)
    return threshold


def _wanted(n: int, k: int, sample: int) -> int:
    """How many elements of a sample of n elements should reach the threshold; more than the sample has means all."""
    if n <= sample or k == 0:
        return k
    expected = k / n * sample
    # Four standard deviations above the expectation: too few elements would cost three times as much in all.
    return math.ceil(expected + 4 * math.sqrt(expected) + 4)


def _exactly(bits: Tensor, chunks: Chunks, ks: Sequence[int]) -> Tensor:
    """Select by the exact k-th largest magnitude of each span."""
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
    """Count the passing elements, and compute the output offset of each chunk."""
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
