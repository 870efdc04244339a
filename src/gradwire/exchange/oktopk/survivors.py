"""Ok-Topk's second half: of the sums that lie with their owners, everybody hears those that count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from gradwire.ask import AllGather, AllToAll
from gradwire.exchange.oktopk.pieces import Pieces, hear
from gradwire.exchange.oktopk.plan import Plan
from gradwire.exchange.oktopk.threshold import is_near, kth_largest, reach


async def survive(sums: Tensor, k: int, plan: Plan, rank: int) -> tuple[Tensor, list[int], Plan]:
    """Places of this worker's sums that everybody shall hear, how many every worker has, and the plan they are of.

    By the plan's common threshold; where there is none, or it keeps too few or too many, exactly the k largest: of
    equals the first win.
    """
    if not math.isnan(plan.common):
        found = reach(sums, plan.common)
        counts = [above for above, _ in await hear((len(found), 0), sums.device)]
        if is_near(sum(counts), k, plan.common):
            return found, counts, plan
    size = sums.abs()
    level = await kth_largest(size[size > 0], k) if k < plan.bounds[-1] else 0.0
    above, equal = size > level, (size == level) & (size > 0)
    tallies = await hear((int(above.sum()), int(equal.sum())), sums.device)
    counts, room = list[int](), k - sum(more for more, _ in tallies)
    for more, same in tallies:
        counts.append(more + min(room, same))
        room -= min(room, same)
    share = counts[rank] - tallies[rank][0]
    found = (above | (equal & (equal.cumsum(0) <= share))).nonzero().view(-1)
    return found, counts, replace(plan, common=level)


async def tell(found: Tensor, sums: Tensor, counts: list[int], plan: Plan, rank: int) -> tuple[Tensor, Tensor]:
    """Hear everybody's sums, increasing places below d: int64[m], f[m]; spread them first if one has far too many."""
    n, d, starts, span = len(counts), plan.bounds[-1], plan.bounds[:-1], plan.largest
    # All sums in order, by their owners: ends[a] to ends[a + 1] are a's. Spread evenly, cuts[b] to cuts[b + 1] are b's.
    ends = [0, *itertools.accumulate(counts)]
    even = -(-ends[n] // n)
    cuts = [min(even * worker, ends[n]) for worker in range(n + 1)]
    moved = max(_lengths(sorted(ends + cuts)))
    if max(counts) > even + moved:
        pieces = Pieces(moved, d, sums.dtype)
        shares = _lengths([min(max(cut, ends[rank]), ends[rank + 1]) for cut in cuts])
        heard = await AllToAll(pieces.encode(found + starts[rank], sums, shares))
        starts, span, counts = (0,) * n, d, _lengths(cuts)
        found, sums = pieces.read(heard, starts)
    pieces = Pieces(max(counts), span, sums.dtype)
    wire = pieces.encode(found, sums, [len(found)]).squeeze(0)
    return pieces.read(await AllGather(wire), starts)


def _lengths(ends: Iterable[int]) -> list[int]:
    return [end - start for start, end in itertools.pairwise(ends)]
