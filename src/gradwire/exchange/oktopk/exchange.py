"""Ok-Topk's algorithm: split and reduce, then balance and gather (Li and Hoefler, PPoPP 2022).

rank r of n workers, k = density * d                                                                 per ordinary step
---------------------------------------------------------------------------------------------------------------------
select     indices of x that reach the worker's own threshold, in n regions known to all              nothing
AllGather  the counts in the worker's fullest region, and in all regions                              8 bytes
AllToAll   indices and values of region j to rank j, which sums them; padded to the largest count p   n p entries
AllGather  the count of sums that reach the common threshold                                          8 bytes
AllToAll   those sums, spread evenly over the workers, if one worker has far more than others         (seldom)
AllGather  those sums, padded to the largest count q of a worker                                      q entries

An entry is an index and a value: two elements in the paper's count. On a worker's link that is 2 (n - 1) (p + q)
elements, or 4 k (n - 1) / n if p = q = k / n. Let c = ceil(kept sums / n): if q is above 2 c, or earlier, it pays to
spread the sums first, and the last two collectives then take at most 4 c (n - 1) elements. So with p and c at k / n the
volume is below 6 k elements, the paper's bound, for any n. Padding adds to it: p is the largest count of any worker in
any region. It is near k / n only if the workers' large values are in the same places, and up to k if a worker has all
its values in one region. An index takes less than an element of 4 bytes (wire/index.py).

Every `recompute_every` steps the workers select exactly: each its k largest values, then the k largest sums. In between
thresholds and regions stay, and counts drift. If a worker's count leaves [k / 2, 2 k], all select exactly before
anything is sent; if the count of sums does, the sums are selected exactly. So neither exceeds 2 k. New regions cost an
AllReduce of 16 n bytes, a new common threshold four AllReduces of 2 KB (eight for float64), and each a new count.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllToAll
from gradwire.checks import check_whole
from gradwire.compress.protocol import check_density, kept
from gradwire.exchange.oktopk.pieces import Pieces, gather_counts
from gradwire.exchange.oktopk.regions import Regions, propose
from gradwire.exchange.oktopk.survivors import gather_sums, select_sums
from gradwire.exchange.oktopk.threshold import indices_above, is_near
from gradwire.exchange.protocol import State
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Sent, Sparse, widen


@part("oktopk", "exchange", example="ef(oktopk(density=0.01))")
@dataclass(frozen=True)
class OkTopk:
    """Send about the k = density * d largest sums of all workers' values; exactly k every `recompute_every` steps."""

    density: float
    recompute_every: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        check_whole("recompute_every", self.recompute_every)

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make the regions, replicated: f64[2, 0] for none; the first step makes f64[2, n + 1] (`Regions.write`)."""
        return {"plan": torch.zeros(2, 0, dtype=torch.float64, device=device)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use four collectives in an ordinary step, for any n. The state keeps the regions."""
        if isinstance(turn.rank, slice):
            raise ValueError("oktopk's regions belong to ranks: it runs in lockstep, not batched")
        x, n = widen(x), turn.size
        k = kept(self.density, len(x))
        due = turn.step % self.recompute_every == 0
        selected, regions, width = await _select(x, k, None if due else Regions.read(state, n, len(x)), turn)
        sums = await _reduce(x, selected, regions, width, turn.rank)
        found, counts, regions = await select_sums(sums, k, regions, turn.rank)
        regions.write(state)
        indices, totals = await gather_sums(found, sums[found], counts, regions, turn.rank)
        own = indices[torch.isin(indices, selected, assume_unique=True)]
        return Sent(own=Sparse(own, x[own], len(x)), mean=Sparse(indices, totals.div_(n), len(x)))

    def omega(self, d: int) -> float | None:
        """Return None: it is biased."""
        return None

    def delta(self, d: int) -> float | None:
        """Return 0: a projection, but a value that is large here need not be large in the sum."""
        return 0.0


async def _select(x: Tensor, k: int, regions: Regions | None, turn: Turn) -> tuple[Tensor, Regions, int]:
    """Return this worker's indices, the regions, and the largest count of any worker in any region.

    Without regions, or if a worker's count has drifted too far, it selects exactly the k largest and makes new regions,
    whose common threshold is not known yet (NaN).
    """
    if regions is not None:
        selected = indices_above(x, regions.local[cast(int, turn.rank)])
        width, totals = await _count(selected, regions, cast(int, turn.rank))
        if all(is_near(total, k, threshold) for total, threshold in zip(totals, regions.local, strict=True)):
            return selected, regions, width
    selected = kernels.topk(x, k)
    selected = selected[x[selected] != 0]
    threshold = x[selected].abs().amin().item() if len(selected) == k < len(x) else 0.0
    bounds, local = await propose(selected, threshold, len(x), turn)
    regions = Regions(bounds, local, float("nan"))
    width, _ = await _count(selected, regions, cast(int, turn.rank))
    return selected, regions, width


async def _reduce(x: Tensor, selected: Tensor, regions: Regions, width: int, rank: int) -> Tensor:
    """Send each region's entries to its owner, and return the sums of the received ones: f[this region's size]."""
    edges = _edges(selected, regions)
    counts = [end - start for start, end in itertools.pairwise(edges)]
    starts = torch.tensor(regions.bounds[:-1], device=x.device)
    offsets = selected - starts.repeat_interleave(torch.tensor(counts, device=x.device))
    pieces = Pieces(width, regions.largest, x.dtype)
    indices, values = pieces.decode(await AllToAll(pieces.encode(offsets, x[selected], counts)))
    sums = x.new_zeros(regions.largest + width)
    # Row by row, because indices are distinct within a row, so that every device adds in the order of ranks.
    for row, value in zip(indices, values, strict=True):
        sums.index_add_(0, row, value.to(x.dtype))
    return sums[: regions.bounds[rank + 1] - regions.bounds[rank]]


def _edges(indices: Tensor, regions: Regions) -> list[int]:
    """Return the positions among increasing indices at which the regions begin and end."""
    bounds = torch.tensor(regions.bounds, device=indices.device)
    return cast(list[int], torch.searchsorted(indices, bounds).tolist())


async def _count(selected: Tensor, regions: Regions, rank: int) -> tuple[int, list[int]]:
    """Return the largest count of any worker in any region, and the total count of each worker."""
    edges = _edges(selected, regions)
    fullest = max(end - start for start, end in itertools.pairwise(edges))
    pairs = await gather_counts((fullest, len(selected)), regions.bounds[-1], rank, selected.device)
    return max(most for most, _ in pairs), [total for _, total in pairs]
