"""DEFT's algorithm: broadcast the plan, gather disjoint indices, sum the values there (Algorithms 1 and 5).

rank r at step t of n workers, R = repack_every                                       per step and worker
-----------------------------------------------------------------------------------------------------------
layers  = partition(sizes, n, merge)                                                  nothing
k_x     = assign_k(sizes, own norms, k)                                               nothing
Broadcast  the plan packed by rank (t // R) % n, if R divides t                          4 (n + L + 1) bytes
select  k_x largest of every layer x in bin (t + r) % n, by the worker's own k_x      nothing
AllGather  count, and indices as bit-packed gaps inside the bin, padded to the space     4 + about k / n indices
AllGather  the remaining indices, if a worker has found more than fit the space          usually nothing
AllReduce  all workers' values at all indices, common layers included                    the union's values

The space is that of the largest index block by the delegate's budgets, plus a quarter; the plan contains it. With
k_source="delegate" the plan contains L budgets instead, 4 (n + 2 L) bytes, and no counts are sent.
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
from gradwire.exchange.deft.agreement import agree, no_plan
from gradwire.exchange.deft.indices import Span, globalise, length
from gradwire.exchange.deft.norms import as_whole, from_whole, relative_norms
from gradwire.exchange.deft.plan import PACKINGS, Packing, apportion_k, assign_k, pack, partition
from gradwire.exchange.disjoint import expected_nbytes, gather_found, gather_indices
from gradwire.exchange.protocol import WEIGHT, State, no_weight, tensor
from gradwire.kernels import Accumulated
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.reprs import quiet
from gradwire.vector import Sent, Sparse, widen


@part("deft", "exchange", example="deft(density=0.01)")
@quiet("k_source", "exact_k", "repack_every", "merge", "pack_by", "overlap", "cut")
@dataclass(frozen=True)
class DEFT:
    """Every worker searches its own part of the model; layers with larger norms get more of k = density * d.

    The default is the paper's algorithm, as in its authors' code. The options change it:

    Args:
        density: k / d, the fraction of values to send, in (0, 1].
        k_source: the source of the budgets k_x by which layers are searched. "local", as in the paper: each worker uses
            its own, so about k values are sent. "delegate": all use those of the step's delegate, broadcast with the
            plan; exactly their sum is sent, and no counts are gathered.
        exact_k: divide k by largest remainders, so that a worker's budgets sum to exactly k, or to 1 if k is below one;
            a layer may then get nothing. By default, as in the paper, each of the L layers gets at least one, so the
            sum exceeds k by up to L - 1, or is L if k = 0; if the last layers are small it is below k. Exactly k values
            are sent only with k_source="delegate", where no worker searches a layer without a budget. With "local" such
            a layer is still in a bin, because the worker that searches the bin may have a budget for it.
        repack_every: number of steps for which a plan is used. 1, as in the paper: every step has its own. Between two
            plans nothing is broadcast; with k_source="delegate" norms are not computed either, and the budgets are as
            old as the plan.
        merge: neighbouring tensors become one layer while together they have at most this many elements (and d / n),
            for models of many small tensors. 0, as in the paper: a tensor is one layer, or n if larger than d / n.
        pack_by: the cost that is balanced over the bins. "cost", as in the paper: n_x log2 k_x, the time of a selection
            by a heap. "elements": n_x + 20 k_x, that of a selection in linear time. "time": the measured time of the
            kernel that selects here (plan.py).
        overlap: how the model's k is divided if the model is exchanged in several units, each as soon as its gradients
            are complete, before the norms of other units are known. False: by size, with the same density for all.
            True: by the sums of the layers' norms of the step before, broadcast with that step's plans (4 bytes more);
            by size in the first step. With a single unit, as in the paper, it makes no difference.
        cut: 0, as in the paper: a tensor larger than d / n becomes n layers. Above 0: a tensor is cut where a multiple
            of d / (cut n) lies in it, which makes few layers and no large one. Use 2 at a density of 1 % or less, and 4
            at 10 %, where layers with many large values take longest.
    """

    density: float
    k_source: str = "local"
    exact_k: bool = False
    repack_every: int = 1
    merge: int = 0
    pack_by: str = "cost"
    overlap: bool = False
    cut: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        if self.k_source not in ("local", "delegate"):
            raise ValueError(f"k_source must be 'local' or 'delegate', got {self.k_source!r}")
        if self.pack_by not in PACKINGS:
            raise ValueError(f"pack_by must be 'cost', 'elements' or 'time', got {self.pack_by!r}")
        for name, value in (("exact_k", self.exact_k), ("overlap", self.overlap)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {value!r}")
        check_whole("repack_every", self.repack_every)
        check_whole("merge", self.merge, least=0)
        check_whole("cut", self.cut, least=0)

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make replicated state: a plan if it is used for several steps, and a weight with `overlap`; none at first."""
        return ({} if self.repack_every == 1 else no_plan()) | (no_weight() if self.overlap else {})

    def wants_norms(self, turn: Turn) -> Sequence[Span]:
        """Return all layers if this worker divides k on this turn, else none."""
        window, age = divmod(turn.step, self.repack_every)
        divides = self.k_source == "local" or (turn.rank == window % turn.size and age == 0)
        return _layers(turn.layout.sizes, turn.size, self.merge, self.cut) if divides else ()

    async def __call__(self, x: Tensor | Accumulated, state: State, turn: Turn) -> Sent:
        """Use three collectives for any number of layers, and read all norms from the device once.

        It takes one collective more if a worker's budgets are much larger than the delegate's.
        """
        if isinstance(turn.rank, slice):
            raise ValueError("deft's plan depends on the rank: it runs in lockstep, not batched")
        layers = _layers(turn.layout.sizes, turn.size, self.merge, self.cut)
        x = x if isinstance(x, Accumulated) else widen(x)
        plan, ks, space = await self._agree(x, layers, state, turn)
        x = kernels.values(x)
        bins = _rotate(plan.bins, turn.step)
        spans = [[layers[i] for i in bin] for bin in bins]
        found = kernels.segmented_topk(x, spans[turn.rank], [ks[i] for i in bins[turn.rank]])
        dims = [length(each) for each in spans]
        if self.k_source == "delegate":
            gathered = await gather_indices(found, [sum(ks[i] for i in bin) for bin in bins], dims, turn.rank)
        else:
            gathered = await gather_found(found, dims, turn.rank, space)
        whole = [torch.arange(*layers[i], device=x.device) for i in plan.common]
        indices = torch.cat([*map(globalise, gathered, spans), *whole])
        values = widen(x[indices])
        total = await AllReduce(values)
        return Sent(own=Sparse(indices, values, len(x)), mean=Sparse(indices, total.div_(turn.size), len(x)))

    def omega(self, d: int) -> float | None:
        """Return None: it is biased."""
        return None

    def delta(self, d: int) -> float | None:
        """Return 0: a projection, but the values that other workers select need not be large here."""
        return 0.0

    async def _agree(
        self, x: Tensor | Accumulated, layers: Sequence[Span], state: State, turn: Turn
    ) -> tuple[Packing, list[int], int]:
        """Return the common plan, the budgets by which this worker searches, and the space for indices in bytes."""
        sizes, n, own = [end - start for start, end in layers], turn.size, self.k_source == "local"
        norms: Sequence[float] = relative_norms(x, layers) if own else ()
        budgets = self._budgets(sizes, norms, turn) if own else []

        def make() -> list[int]:
            delegates = norms if own else relative_norms(x, layers)
            ks = budgets if own else self._budgets(sizes, delegates, turn)
            plan = pack(sizes, ks, n, self.pack_by)
            return plan.message() + ([_space(plan, sizes, ks)] if own else ks) + weight(delegates)

        def weight(norms: Sequence[float]) -> list[int]:
            return [as_whole(math.fsum(norms))] if self.overlap else []

        def fits(message: list[int]) -> bool:
            possible = not own or 0 <= message[split] <= sum(sizes)
            weights = all(from_whole(number) >= 0 for number in message[end:])
            return Packing.fits(message[: split if own else end], n, sizes) and possible and weights

        split = n + len(layers)
        end = split + (1 if own else len(layers))
        device = kernels.values(x).device
        message = await agree(make, fits, end + self.overlap, self.repack_every, state, turn, device)
        if self.overlap:
            tensor(state, WEIGHT).fill_(from_whole(message[end]))
        plan = Packing.read(message[:split], n)
        if own:  # a worker may have a budget for a layer for which the delegate has none
            return plan, budgets, message[split]
        ks = message[split:end]
        return Packing([[i for i in bin if ks[i] > 0] for bin in plan.bins], plan.common, []), ks, 0

    def _budgets(self, sizes: Sequence[int], norms: Sequence[float], turn: Turn) -> list[int]:
        """Return k_x of every layer."""
        d, budget = sum(sizes), turn.budget if self.overlap else 1.0
        if self.exact_k:
            k = kept(self.density, d) if budget == 1.0 else min(d, round(self.density * budget * d))
            return apportion_k(sizes, norms, k)
        return assign_k(sizes, norms, min(d, int(self.density * budget * d)))


_layers = lru_cache(maxsize=256)(partition)


def _space(plan: Packing, sizes: Sequence[int], ks: Sequence[int]) -> int:
    """Return the bytes for the indices of a bin, by the delegate's budgets."""
    dims, counts = [sum(sizes[i] for i in bin) for bin in plan.bins], [sum(ks[i] for i in bin) for bin in plan.bins]
    return expected_nbytes(dims, counts)


def _rotate(bins: list[list[int]], step: int) -> list[list[int]]:
    """Return bin (step + rank) % n for every rank, with its layers in order, so that indices are sorted."""
    return [sorted(bins[(step + rank) % len(bins)]) for rank in range(len(bins))]
