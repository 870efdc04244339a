"""SharedRandK: all workers keep the same random indices, so k values are summed and no index is sent.

Unbiased with omega = d / k - 1 like Rand-k, but the workers' errors do not average out, because all drop the same
coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllReduce
from gradwire.compress.protocol import check_density, from_omega, kept
from gradwire.exchange.protocol import State, stateless
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Sent, Sparse, widen


@part("sharedrandk", "exchange", example="sharedrandk(density=0.1)")
@dataclass(frozen=True)
class SharedRandK:
    """Sum the values at random indices common to all workers, scaled by d / k if `unbiased`, else contractive."""

    density: float
    unbiased: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        if self.unbiased not in (True, False):
            raise ValueError(f"unbiased must be true or false, got {self.unbiased!r}")

    init = stateless

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use one AllReduce of f[k]."""
        d, x = x.shape[-1], widen(x)
        k = kept(self.density, d)
        key = torch.tensor(turn.key(shared=True), device=x.device)
        indices = kernels.support(key, d, k)
        values = x[..., indices]
        if self.unbiased:
            values = values * (d / max(k, 1))
        total = await AllReduce(values)
        return Sent(own=Sparse(indices.expand_as(values), values, d), mean=Sparse(indices, total.div_(turn.size), d))

    def omega(self, d: int) -> float | None:
        """Return d / k - 1 if unbiased, else None."""
        fraction = kept(self.density, d) / d if d else 1.0
        return 1 / fraction - 1 if self.unbiased else None

    def delta(self, d: int) -> float | None:
        """Return k / d if not scaled; if unbiased, 1 - omega where that is positive, else None."""
        fraction = kept(self.density, d) / d if d else 1.0
        return from_omega(1 / fraction - 1) if self.unbiased else fraction
