"""gTop-k: only the k largest values of the sum of all workers' Top-k are kept (Shi et al. 2019, arXiv:1901.04359).

Here all workers' Top-k are gathered and each worker sums them, as the DEFT authors' baseline does. The paper sums along
a tree and drops values on the way, so it sums fewer values and does not select exactly the k largest. Among sums of
equal magnitude those at the lowest indices are kept, as in Top-k.

`own` holds a worker's value where the worker selected it and the sum is kept. Error feedback keeps the rest, including
values at kept indices that only other workers selected.

Wire: TopK's message (compress/topk.py), | index block | k x float32 |.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllGather
from gradwire.compress.protocol import check_density, kept
from gradwire.compress.topk import TopK
from gradwire.exchange.protocol import State, stateless
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Sent, Sparse, widen


@part("globaltopk", "exchange", example="ef(globaltopk(density=0.01))")
@dataclass(frozen=True)
class GlobalTopK:
    """Keep the density * d largest values, at least one, of the sum of all workers' density * d largest."""

    density: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))

    init = stateless

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use one AllGather of u8[TopK(density).nbytes(d)]; `own` is x where selected and kept, else 0."""
        d, x, topk = x.shape[-1], widen(x), TopK(self.density)
        gathered = topk.decode(await AllGather(topk.encode(x, turn)), d).to(x.dtype)
        union, slots = _unite(gathered.indices)
        total = _add(slots, gathered.values, len(union))
        best = kernels.topk(total, kept(self.density, d))
        is_best = torch.zeros(len(union), dtype=torch.bool, device=x.device)
        is_best[best] = True
        values = gathered.values.where(is_best[slots], 0.0)
        own = Sparse(gathered.indices[turn.rank], values[turn.rank], d)
        return Sent(own=own, mean=Sparse(union[best], total[best].div_(turn.size), d))

    def omega(self, d: int) -> float | None:
        """Return 0 if it keeps everything, else None: it is biased."""
        return 0.0 if kept(self.density, d) == d else None

    def delta(self, d: int) -> float | None:
        """Return 1 if it keeps everything, else 0: a projection, but the kept sums need not be large here."""
        return 1.0 if kept(self.density, d) == d else 0.0


def _unite(indices: Tensor) -> tuple[Tensor, Tensor]:
    """int64[n, k] -> the union int64[u], increasing, and the position of each index in it, int64[n, k]."""
    return cast(tuple[Tensor, Tensor], indices.unique(return_inverse=True))


def _add(slots: Tensor, values: Tensor, size: int) -> Tensor:
    """Add rows f[n, k] into f[size] at positions int64[n, k], which are distinct within a row.

    It adds row by row, because a GPU adds in any order within one call, and workers whose sums differ in a bit might
    keep different indices.
    """
    total = values.new_zeros(size)
    for positions, row in zip(slots, values, strict=True):
        total.scatter_add_(0, positions, row)
    return total
