"""Ok-Topk's second half: the largest sums are sent from their owners to all workers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from gradwire.ask import AllGather, AllToAll
from gradwire.exchange.oktopk.pieces import Pieces, gather_counts
from gradwire.exchange.oktopk.regions import Regions
from gradwire.exchange.oktopk.threshold import indices_above, is_near, kth_largest


async def select_sums(sums: Tensor, k: int, regions: Regions, rank: int) -> tuple[Tensor, list[int], Regions]:
    """Return the indices of this worker's kept sums, every worker's count, and the regions with the common threshold.

    The common threshold selects. If there is none, or it keeps too few or too many, exactly the k largest sums are
    kept; among equal magnitudes those at the lowest indices.
    """
    d = regions.bounds[-1]
    if not math.isnan(regions.common):
        found = indices_above(sums, regions.common)
        counts = [count for count, _ in await gather_counts((len(found), 0), d, rank, sums.device)]
        if is_near(sum(counts), k, regions.common):
            return found, counts, regions
    size = sums.abs()
    threshold = await kth_largest(size[size > 0], k) if k < d else 0.0
    above, equal = size > threshold, (size == threshold) & (size > 0)
    tallies = await gather_counts((int(above.sum()), int(equal.sum())), d, rank, sums.device)
    counts, left = list[int](), k - sum(more for more, _ in tallies)
    for more, same in tallies:
        counts.append(more + min(left, same))
        left -= min(left, same)
    ties = counts[rank] - tallies[rank][0]
    found = (above | (equal & (equal.cumsum(0) <= ties))).nonzero().view(-1)
    return found, counts, replace(regions, common=threshold)


async def gather_sums(
    found: Tensor, sums: Tensor, counts: list[int], regions: Regions, rank: int
) -> tuple[Tensor, Tensor]:
    """Gather all workers' kept sums, at increasing indices below d: int64[m], f[m].

    If one worker has far more than the others, the sums are first spread evenly.
    """
    n, d, starts, span = len(counts), regions.bounds[-1], regions.bounds[:-1], regions.largest
    # Of all sums in order, owner a has ends[a] to ends[a + 1]. Spread evenly, worker b has cuts[b] to cuts[b + 1].
    ends = [0, *itertools.accumulate(counts)]
    even = -(-ends[n] // n)
    cuts = [min(even * worker, ends[n]) for worker in range(n + 1)]
    moved = max(_lengths(sorted(ends + cuts)))
    if max(counts) > even + moved:
        pieces = Pieces(moved, d, sums.dtype)
        lengths = _lengths([min(max(cut, ends[rank]), ends[rank + 1]) for cut in cuts])
        received = await AllToAll(pieces.encode(found + starts[rank], sums, lengths))
        starts, span, counts = (0,) * n, d, _lengths(cuts)
        found, sums = pieces.read(received, starts, d)
    pieces = Pieces(max(counts), span, sums.dtype)
    wire = pieces.encode(found, sums, [len(found)]).squeeze(0)
    return pieces.read(await AllGather(wire), starts, d)


def _lengths(ends: Iterable[int]) -> list[int]:
    return [end - start for start, end in itertools.pairwise(ends)]
