"""DEFT's conversation: share the plan, gather disjoint indices, sum the values there (Algorithms 1 and 5).

rank r at step t of n workers                                                         per step and worker
-----------------------------------------------------------------------------------------------------------
layers  = partition(sizes, n)                                                         nothing
k_x     = assign_k(sizes, own norms, k)                                               nothing
Share   the plan packed by rank t % n                                                 4 (n + L) bytes
select  k_x largest of every layer x in bin (t + r) % n, by one's own k_x             nothing
Gather  how many, then which: gaps inside the bin, bit-packed, padded to the longest  4 + about k / n indices
Sum     everybody's values at all indices, common layers included                     the union's values
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import Gather, Share, Sum
from gradwire.compress.protocol import check_density
from gradwire.exchange.deft.plan import Plan, assign_k, pack, partition
from gradwire.exchange.protocol import State
from gradwire.layout import Layout, Turn
from gradwire.vector import Sent, Sparse, widen
from gradwire.wire import index


@dataclass(frozen=True)
class Deft:
    """Every worker searches its own part of the model; layers with larger norms get more of density * d."""

    density: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        lead: tuple[int, ...] = (),
    ) -> State:
        """Nothing to remember."""
        return {}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Four asks a step, whatever the number of layers; one read of all norms from the device."""
        if isinstance(turn.rank, slice):
            raise ValueError("deft's plan depends on the rank: it runs in lockstep, not batched")
        x = widen(x)
        layers = _layers(tuple(turn.layout.sizes), turn.size)
        sizes = [end - start for start, end in layers]
        ks = assign_k(sizes, kernels.norms(x, layers), int(self.density * len(x)))
        plan = await _share(sizes, ks, turn, x.device)
        searched = _rotate(plan.bins, turn.step)
        places = [[layers[i] for i in bin] for bin in searched]
        found = _select(x, places[turn.rank], [ks[i] for i in searched[turn.rank]])
        whole = [torch.arange(*layers[i], device=x.device) for i in plan.common]
        indices = torch.cat([*await _gather(found, places, turn.rank), *whole])
        values = x[indices]
        total = await Sum(values)
        return Sent(own=Sparse(indices, values, len(x)), mean=Sparse(indices, total.div_(turn.size), len(x)))

    def omega(self, d: int) -> float | None:
        """None: biased."""
        return None

    def delta(self, d: int) -> float | None:
        """0: a projection, never expansive; but what others select need not be large here, so no more is certain."""
        return 0.0


Span = tuple[int, int]

_layers = lru_cache(maxsize=256)(partition)


async def _share(sizes: list[int], ks: list[int], turn: Turn, device: torch.device) -> Plan:
    """Let the delegate of this step pack the layers by its own budgets, and tell everybody."""
    delegate = turn.step % turn.size
    message = pack(sizes, ks, turn.size).message() if turn.rank == delegate else [0] * (turn.size + len(sizes))
    answer = await Share(torch.tensor(message, dtype=torch.int32, device=device), delegate)
    return Plan.read(cast(list[int], answer.tolist()), turn.size)


def _rotate(bins: list[list[int]], step: int) -> list[list[int]]:
    """Bin (step + rank) % n for every rank, its layers by position so that indices come out sorted."""
    return [sorted(bins[(step + rank) % len(bins)]) for rank in range(len(bins))]


def _select(x: Tensor, spans: Sequence[Span], ks: Sequence[int]) -> Tensor:
    """Positions, in the bin's layers laid end to end, of the k largest magnitudes of each: int64[sum of k]."""
    starts = itertools.accumulate((end - start for start, end in spans), initial=0)
    found = [kernels.top(x[a:b], k) + at for (a, b), k, at in zip(spans, ks, starts, strict=False)]
    return torch.cat([torch.empty(0, dtype=torch.int64, device=x.device), *found])


async def _gather(found: Tensor, places: Sequence[Sequence[Span]], mine: int) -> list[Tensor]:
    """Tell everybody one's positions and hear theirs: global indices per rank. Every rank knows every bin's layers."""
    dims = [sum(end - start for start, end in spans) for spans in places]
    count = torch.tensor([len(found)], dtype=torch.int32, device=found.device)
    heard = await Gather(count.view(torch.uint8))
    counts = cast(list[int], heard.view(torch.int32).flatten().tolist())
    lengths = [index.nbytes(d, k) for d, k in zip(dims, counts, strict=True)]
    wire = index.encode(found, dims[mine])
    wires = await Gather(torch.nn.functional.pad(wire, (0, max(lengths) - len(wire))))
    return [
        _globalise(index.decode(wires[rank, : lengths[rank]], dims[rank], counts[rank]), places[rank])
        for rank in range(len(places))
    ]


def _globalise(positions: Tensor, spans: Sequence[Span]) -> Tensor:
    """From positions in layers laid end to end to indices of the flat vector."""
    if not spans:
        return positions
    edges = torch.tensor([(start, end - start) for start, end in spans], device=positions.device)
    ends = edges[:, 1].cumsum(0)
    layer = torch.searchsorted(ends, positions, right=True)
    return positions + (edges[:, 0] - ends + edges[:, 1])[layer]
