"""gTop-k: of the sum of everybody's Top-k only the k largest are kept (Shi et al. 2019, arXiv:1901.04359).

Here every worker hears every other's places and values and adds them up itself, as the DEFT authors' baseline does; the
paper's tree, which drops values on its way, sums fewer of them and is no exact choice of the k largest. Of sums of
equal magnitude those at the lowest places are kept, as of equal values in one's own selection.

Said is what was in one's own Top-k and is kept; error feedback holds all else, also one's values at kept places that
only others have selected.

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
    """Keep the density * d largest of the sum of everybody's density * d largest, at least one."""

    density: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))

    init = stateless

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """One AllGather of u8[TopK(density).nbytes(d)]; `own` is x where it was selected and is kept, else 0."""
        d, x, topk = x.shape[-1], widen(x), TopK(self.density)
        heard = topk.decode(await AllGather(topk.encode(x, turn)), d).to(x.dtype)
        union, slots = _unite(heard.indices)
        total = _add(slots, heard.values, len(union))
        best = kernels.topk(total, kept(self.density, d))
        lives = torch.zeros(len(union), dtype=torch.bool, device=x.device)
        lives[best] = True
        said = heard.values.where(lives[slots], 0.0)
        own = Sparse(heard.indices[turn.rank], said[turn.rank], d)
        return Sent(own=own, mean=Sparse(union[best], total[best].div_(turn.size), d))

    def omega(self, d: int) -> float | None:
        """None: biased, unless it keeps everything."""
        return 0.0 if kept(self.density, d) == d else None

    def delta(self, d: int) -> float | None:
        """0: a projection, never expansive; but what others keep need not be large here. 1 if it keeps everything."""
        return 1.0 if kept(self.density, d) == d else 0.0


def _unite(places: Tensor) -> tuple[Tensor, Tensor]:
    """int64[n, k] -> the union, increasing, int64[u], and which of it every place is, int64[n, k]."""
    return cast(tuple[Tensor, Tensor], places.unique(return_inverse=True))


def _add(slots: Tensor, values: Tensor, size: int) -> Tensor:
    """Add rows f[n, k] into f[size] at int64[n, k], distinct within a row.

    Row by row: in one call a GPU adds in any order, and workers whose sums differ in a bit may keep other places.
    """
    total = values.new_zeros(size)
    for places, row in zip(slots, values, strict=True):
        total.scatter_add_(0, places, row)
    return total
