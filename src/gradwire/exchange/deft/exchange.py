"""DEFT's conversation: share the plan, gather disjoint indices, sum the values there (Algorithms 1 and 5).

rank r at step t of n workers, R = repack_every                                       per step and worker
-----------------------------------------------------------------------------------------------------------
layers  = partition(sizes, n, merge)                                                  nothing
k_x     = assign_k(sizes, own norms, k)                                               nothing
Broadcast  the plan packed by rank (t // R) % n, where R divides t                       4 (n + L) bytes
select  k_x largest of every layer x in bin (t + r) % n, by one's own k_x             nothing
AllGather  how many, then which: gaps inside the bin, bit-packed, padded to the longest  4 + about k / n indices
AllReduce  everybody's values at all indices, common layers included                     the union's values

With k_source="delegate" the plan brings L budgets along, 4 (n + 2 L) bytes, and nobody need say how many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllReduce
from gradwire.checks import check_whole
from gradwire.compress.protocol import check_density, kept
from gradwire.exchange.deft.agreement import agree, nothing
from gradwire.exchange.deft.indices import Span, globalise, length
from gradwire.exchange.deft.norms import as_whole, from_whole, relative_norms
from gradwire.exchange.deft.plan import Plan, apportion_k, assign_k, pack, partition
from gradwire.exchange.disjoint import gather, hear_counts
from gradwire.exchange.protocol import WEIGHT, State, no_weight, tensor
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.reprs import quiet
from gradwire.vector import Sent, Sparse, widen


@part("deft", "exchange", example="deft(density=0.01)")
@quiet("k_source", "exact_k", "repack_every", "merge", "pack_by", "overlap")
@dataclass(frozen=True)
class DEFT:
    """Every worker searches its own part of the model; layers with larger norms get more of k = density * d.

    By default the paper's algorithm, as its authors' code has it. What the options change:

    Args:
        density: k / d, the share of values that is sent, in (0, 1].
        k_source: whose budgets k_x a layer is searched by. "local", the paper's: those of the worker who searches it,
            so that about k values are sent. "delegate": those of the step's delegate, who shares them with the plan;
            the number sent is exactly their sum, and no counts are gathered.
        exact_k: share k by largest remainders, so that a worker's budgets sum to exactly k, or to 1 where k is below
            one; a layer may then get nothing. By default, the paper's, each of the L layers gets at least one, so that
            the sum lies above k by up to L - 1, or is L where k = 0; where the last layers are small it lies below.
            Exactly k values are sent with k_source="delegate" only, where nobody searches a layer without a budget;
            with "local" such a layer lies in a bin, because whoever searches there may have one for it.
        repack_every: steps that a plan serves. 1, the paper's: a plan a step. Between two plans, nothing is shared;
            with k_source="delegate" no norm is taken either, and the budgets grow old with the plan.
        merge: neighbouring tensors become one layer while together they have at most this many elements (and d / n),
            for models of many small ones. 0, the paper's: a tensor is a layer, or n where it is larger than d / n.
        pack_by: what the bins are even in. "cost", the paper's: n_x log2 k_x, the time of a selection by a heap.
            "elements": n_x + 20 k_x, that of a selection in linear time, as it is done here.
        overlap: what a unit gets of the whole model's k where a model is exchanged in several units, each as soon as
            its gradients are there, when nobody knows the others' norms yet. False: its share by size, the same density
            everywhere. True: its share of the sum of all layers' norms one step ago, as told by that step's delegates
            along with their plans, 4 bytes more; by size in the first step. Without units, the paper's, no difference.
    """

    density: float
    k_source: str = "local"
    exact_k: bool = False
    repack_every: int = 1
    merge: int = 0
    pack_by: str = "cost"
    overlap: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        if self.k_source not in ("local", "delegate"):
            raise ValueError(f"k_source must be 'local' or 'delegate', got {self.k_source!r}")
        if self.pack_by not in ("cost", "elements"):
            raise ValueError(f"pack_by must be 'cost' or 'elements', got {self.pack_by!r}")
        for name, value in (("exact_k", self.exact_k), ("overlap", self.overlap)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {value!r}")
        check_whole("repack_every", self.repack_every)
        check_whole("merge", self.merge, least=0)

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Nothing to remember; or no plan yet, a fact, where plans serve for several steps, and no weight (overlap)."""
        return ({} if self.repack_every == 1 else nothing()) | (no_weight() if self.overlap else {})

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Four asks a step at most, whatever the number of layers; one read of all norms from the device."""
        if isinstance(turn.rank, slice):
            raise ValueError("deft's plan depends on the rank: it runs in lockstep, not batched")
        x = widen(x)
        layers = _layers(turn.layout.sizes, turn.size, self.merge)
        plan, ks = await self._agree(x, layers, state, turn)
        searched = _rotate(plan.bins, turn.step)
        places = [[layers[i] for i in bin] for bin in searched]
        found = kernels.segmented_topk(x, places[turn.rank], [ks[i] for i in searched[turn.rank]])
        told = self.k_source == "delegate"
        counts = [sum(ks[i] for i in bin) for bin in searched] if told else await hear_counts(found)
        whole = [torch.arange(*layers[i], device=x.device) for i in plan.common]
        heard = await gather(found, counts, [length(spans) for spans in places], turn.rank)
        indices = torch.cat([*map(globalise, heard, places), *whole])
        values = x[indices]
        total = await AllReduce(values)
        return Sent(own=Sparse(indices, values, len(x)), mean=Sparse(indices, total.div_(turn.size), len(x)))

    def omega(self, d: int) -> float | None:
        """None: biased."""
        return None

    def delta(self, d: int) -> float | None:
        """0: a projection, never expansive; but what others select need not be large here, so no more is certain."""
        return 0.0

    async def _agree(self, x: Tensor, layers: Sequence[Span], state: State, turn: Turn) -> tuple[Plan, list[int]]:
        """Return the plan that all follow, and the budgets by which this worker searches, one per layer."""
        sizes, n, own = [end - start for start, end in layers], turn.size, self.k_source == "local"
        norms = relative_norms(x, layers) if own else []
        budgets = self._budgets(sizes, norms, turn) if own else []

        def make() -> list[int]:
            mine = norms if own else relative_norms(x, layers)
            ks = budgets if own else self._budgets(sizes, mine, turn)
            plan = pack(sizes, ks, n, self.pack_by).message() + ([] if own else ks)
            return plan + ([as_whole(math.fsum(mine))] if self.overlap else [])

        def fits(message: list[int]) -> bool:
            return Plan.fits(message[:told], n, sizes) and all(from_whole(number) >= 0 for number in message[told:])

        length = n + len(layers)
        told = length if own else length + len(layers)
        heard = await agree(make, fits, told + self.overlap, self.repack_every, state, turn, x.device)
        if self.overlap:
            tensor(state, WEIGHT).fill_(from_whole(heard[told]))
        plan, ks = Plan.read(heard[:length], n), budgets or heard[length:told]
        # Whoever searches a layer may have a budget for it where the delegate has none, if budgets are everybody's own.
        return (plan, ks) if own else (Plan([[i for i in bin if ks[i] > 0] for bin in plan.bins], plan.common, []), ks)

    def _budgets(self, sizes: Sequence[int], norms: Sequence[float], turn: Turn) -> list[int]:
        """k_x of every layer."""
        d, share = sum(sizes), turn.budget if self.overlap else 1.0
        if self.exact_k:
            k = kept(self.density, d) if share == 1.0 else min(d, round(self.density * share * d))
            return apportion_k(sizes, norms, k)
        return assign_k(sizes, norms, min(d, int(self.density * share * d)))


_layers = lru_cache(maxsize=256)(partition)


def _rotate(bins: list[list[int]], step: int) -> list[list[int]]:
    """Bin (step + rank) % n for every rank, its layers by position so that indices come out sorted."""
    return [sorted(bins[(step + rank) % len(bins)]) for rank in range(len(bins))]
