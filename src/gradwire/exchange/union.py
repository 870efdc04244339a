"""Top-k with the union of all workers' indices, the DEFT paper's baseline: all workers send what any worker selects.

Each worker selects the k largest magnitudes of its own vector, and all workers' values are summed at the union of the
selected indices. So the support grows with the number of workers, from k up to n k. Exclusive selection (`DEFT`) and a
leader's selection (`CLTK`) avoid this gradient build-up. Independent uniform supports cover 1 - (1 - k / d)^n of the
vector (Yoon and Oh, ICPP 2023, arXiv:2307.03500; its baseline Top-k).

rank r of n workers                                                                   per step and worker
-----------------------------------------------------------------------------------------------------------
AllGather  the indices of the worker's k largest magnitudes (wire/index.py)              u8[index.nbytes(d, k)]
AllReduce  all workers' values at the union                                              f[|union|], k <= |union| <= n k
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllGather, AllReduce
from gradwire.compress.protocol import check_density, kept
from gradwire.exchange.protocol import State, stateless
from gradwire.kernels import Accumulated
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Sent, Sparse, widen
from gradwire.wire import index


@part("uniontopk", "exchange", example="ef(uniontopk(density=0.01))")
@dataclass(frozen=True)
class UnionTopK:
    """Sum the values at all indices where any worker has one of its density * d largest, at least one per worker."""

    density: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))

    init = stateless

    def wants_largest(self, turn: Turn) -> int:
        """Return k."""
        return kept(self.density, turn.layout.d)

    async def __call__(self, x: Tensor | Accumulated, state: State, turn: Turn) -> Sent:
        """Use one AllGather of u8[index.nbytes(d, k)] and one AllReduce of f[|union|]; `own` is x at the union."""
        x = x if isinstance(x, Accumulated) else widen(x)
        values = kernels.values(x)
        d = values.shape[-1]
        k = kept(self.density, d)
        largest = kernels.topk(x, k)
        wires = await AllGather(index.encode(largest, d))
        union = cast(Tensor, index.decode(wires, d, k).unique())
        values = widen(values[..., union])
        total = await AllReduce(values)
        return Sent(own=Sparse(union.expand_as(values), values, d), mean=Sparse(union, total.div_(turn.size), d))

    def omega(self, d: int) -> float | None:
        """Return 0 if it keeps everything, else None: it is biased."""
        return 0.0 if kept(self.density, d) == d else None

    def delta(self, d: int) -> float | None:
        """Return k / d, as for Top-k: the union contains the worker's own indices."""
        return kept(self.density, d) / d if d else 1.0
