"""CLT-k: the workers take turns in selecting for all, so no index is sent twice (ScaleCom, Chen et al. 2020, NeurIPS).

The leader of step t is worker t mod n. All workers' values are summed at the indices of its k largest magnitudes. The
support always has k indices, but the others wait for the leader's selection, and their values there need not be large.
ScaleCom pairs it with a low-pass memory: `EF(CLTK(density), beta)`.

rank r at step t of n workers                                                         per step
-----------------------------------------------------------------------------------------------------------
Broadcast  the leader's indices (wire/index.py)                                          u8[index.nbytes(d, k)], leader
AllReduce  all workers' values there                                                     f[k], every worker
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllReduce, Broadcast
from gradwire.compress.protocol import check_density, kept
from gradwire.exchange.protocol import State, stateless
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Sent, Sparse, widen
from gradwire.wire import index


@part("cltk", "exchange", example="ef(cltk(density=0.01), beta=0.1)")
@dataclass(frozen=True)
class CLTK:
    """Sum all workers' values at the indices of the step's leader's density * d largest magnitudes, at least one."""

    density: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))

    init = stateless

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use one Broadcast of u8[index.nbytes(d, k)] and one AllReduce of f[k]; `own` is x at the leader's indices."""
        d, x = x.shape[-1], widen(x)
        k, leader = kept(self.density, d), turn.step % turn.size
        wire = torch.zeros((*x.shape[:-1], index.nbytes(d, k)), dtype=torch.uint8, device=x.device)
        if isinstance(turn.rank, slice):
            wire[leader] = _encode_largest(x[leader], k)
        elif turn.rank == leader:
            wire = _encode_largest(x, k)
        indices = index.decode(await Broadcast(wire, leader), d, k)
        values = x[..., indices]
        total = await AllReduce(values)
        return Sent(own=Sparse(indices.expand_as(values), values, d), mean=Sparse(indices, total.div_(turn.size), d))

    def omega(self, d: int) -> float | None:
        """Return 0 if it keeps everything, else None: it is biased."""
        return 0.0 if kept(self.density, d) == d else None

    def delta(self, d: int) -> float | None:
        """Return 1 if it keeps everything, else 0: a projection, whose leader's indices need not hold large values."""
        return 1.0 if kept(self.density, d) == d else 0.0


def _encode_largest(x: Tensor, k: int) -> Tensor:
    """f[d] -> u8[index.nbytes(d, k)]: the indices of the k largest magnitudes."""
    return index.encode(kernels.topk(x, k), len(x))
