"""Ok-Topk's conversation: split and reduce, then balance and gather (Li and Hoefler, PPoPP 2022).

rank r of n workers, k = density * d                                                                 per ordinary step
---------------------------------------------------------------------------------------------------------------------
select    places of x from one's own threshold on, in n regions that all agree on                    nothing
AllGather  how many in the fullest region, and in all                                                 8 bytes
AllToAll  the places and values of region j to rank j, padded to the fullest, p; j sums them         n p entries
AllGather  how many sums reach the common threshold                                                   8 bytes
AllToAll  those, spread evenly over the workers, if one has far more than others                     (seldom)
AllGather  those, padded to the most of a worker, q                                                   q entries

An entry is an index and a value: two elements in the paper's count. On a worker's link they make 2 (n - 1) (p + q)
elements, 4 k (n - 1) / n where p = q = k / n. Let c = ceil(sums said / n): where q is above 2 c at the latest, it pays
to spread the sums first, and the last two make 4 c (n - 1) elements or fewer. So with p and c at k / n the volume is
below 6 k elements, the paper's bound, for any n. What padding adds: p is the most that any one worker has in any one
region, near k / n only where workers agree about where the large values are, and up to k where each has all of its own
in another's region. An index takes less than an element of 4 bytes (wire/index.py).

Every `recompute_every` steps the workers select exactly: each its k largest, and of the sums the k largest. Between,
thresholds and regions stay, and counts drift. Where a worker's leaves [k / 2, 2 k], all select exactly, before anything
is sent; where that of the sums does, they are selected exactly: neither is ever more than 2 k. A new plan costs an
AllReduce of 16 n bytes, a new common threshold four of 2 KB (eight for float64), and a second count each.
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
from gradwire.exchange.oktopk.pieces import Pieces, hear
from gradwire.exchange.oktopk.plan import Plan, propose
from gradwire.exchange.oktopk.survivors import survive, tell
from gradwire.exchange.oktopk.threshold import is_near, reach
from gradwire.exchange.protocol import State
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Sent, Sparse, widen


@part("oktopk", "exchange", example="ef(oktopk(density=0.01))")
@dataclass(frozen=True)
class OkTopk:
    """About the k = density * d largest sums of what the workers find large; anew every `recompute_every` steps."""

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
        """No plan yet: f64[2, 0]; after the first step f64[2, n + 1], the same on all workers (see `Plan.write`)."""
        return {"plan": torch.zeros(2, 0, dtype=torch.float64, device=device)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Four asks in an ordinary step, whatever n; `state` keeps the plan."""
        if isinstance(turn.rank, slice):
            raise ValueError("oktopk's regions belong to ranks: it runs in lockstep, not batched")
        x, n = widen(x), turn.size
        k = kept(self.density, len(x))
        due = turn.step % self.recompute_every == 0
        mine, plan, width = await _select(x, k, None if due else Plan.read(state, n, len(x)), turn)
        sums = await _reduce(x, mine, plan, width, turn.rank)
        found, counts, plan = await survive(sums, k, plan, turn.rank)
        plan.write(state)
        places, totals = await tell(found, sums[found], counts, plan, turn.rank)
        said = places[torch.isin(places, mine, assume_unique=True)]
        return Sent(own=Sparse(said, x[said], len(x)), mean=Sparse(places, totals.div_(n), len(x)))

    def omega(self, d: int) -> float | None:
        """None: biased."""
        return None

    def delta(self, d: int) -> float | None:
        """0: a projection, never expansive; but what is large here need not be large in the sum."""
        return 0.0


async def _select(x: Tensor, k: int, plan: Plan | None, turn: Turn) -> tuple[Tensor, Plan, int]:
    """This worker's places, the plan that they are of, and the most that any worker has in any region.

    Without a plan, and where one makes a worker say too little or too much, exactly the k largest by a new plan, whose
    common threshold is not known yet (NaN).
    """
    if plan is not None:
        mine = reach(x, plan.local[cast(int, turn.rank)])
        width, totals = await _count(mine, plan)
        if all(is_near(total, k, level) for total, level in zip(totals, plan.local, strict=True)):
            return mine, plan, width
    mine = kernels.topk(x, k)
    mine = mine[x[mine] != 0]
    level = x[mine].abs().amin().item() if len(mine) == k < len(x) else 0.0
    bounds, local = await propose(mine, level, len(x), turn)
    plan = Plan(bounds, local, float("nan"))
    width, _ = await _count(mine, plan)
    return mine, plan, width


async def _reduce(x: Tensor, mine: Tensor, plan: Plan, width: int, rank: int) -> Tensor:
    """Send every region's entries to its owner and add what comes: f[size of this worker's region]."""
    edges = _edges(mine, plan)
    counts = [end - start for start, end in itertools.pairwise(edges)]
    starts = torch.tensor(plan.bounds[:-1], device=x.device)
    offsets = mine - starts.repeat_interleave(torch.tensor(counts, device=x.device))
    pieces = Pieces(width, plan.largest, x.dtype)
    places, values = pieces.decode(await AllToAll(pieces.encode(offsets, x[mine], counts)))
    sums = x.new_zeros(plan.largest + width)
    # Row by row: within one every place is another, so that the order of addition is that of ranks on every device.
    for place, value in zip(places, values, strict=True):
        sums.index_add_(0, place, value.to(x.dtype))
    return sums[: plan.bounds[rank + 1] - plan.bounds[rank]]


def _edges(places: Tensor, plan: Plan) -> list[int]:
    """Where the regions begin and end among increasing places."""
    bounds = torch.tensor(plan.bounds, device=places.device)
    return cast(list[int], torch.searchsorted(places, bounds).tolist())


async def _count(mine: Tensor, plan: Plan) -> tuple[int, list[int]]:
    """The most that any worker has in any region, and how many each has in all."""
    edges = _edges(mine, plan)
    fullest = max(end - start for start, end in itertools.pairwise(edges))
    heard = await hear((fullest, len(mine)), mine.device)
    return max(most for most, _ in heard), [total for _, total in heard]
