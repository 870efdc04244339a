"""Mean: the plain average without compression, as DDP computes it without gradwire."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gradwire.ask import AllReduce
from gradwire.exchange.protocol import State, stateless
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense, Sent


@part("mean", "exchange", example="mean")
@dataclass(frozen=True)
class Mean:
    """Average every value, in the gradient's own dtype."""

    init = stateless

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Use one AllReduce of f[d], divided first, because float16 may overflow in the sum but not in the mean."""
        return Sent(own=Dense(x.clone()), mean=Dense(await AllReduce(x / turn.size, spare=True)))

    def omega(self, d: int) -> float | None:
        """Return 0: it is exact."""
        return 0.0

    def delta(self, d: int) -> float | None:
        """Return 1: it is exact."""
        return 1.0
