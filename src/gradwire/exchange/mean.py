"""Mean: the plain average, nothing lost. What DDP does without gradwire."""

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
        """One AllReduce of f[d], divided first, because float16 values may overflow in the sum and not in the mean."""
        return Sent(own=Dense(x.clone()), mean=Dense(await AllReduce(x / turn.size, spare=True)))

    def omega(self, d: int) -> float | None:
        """0: exact."""
        return 0.0

    def delta(self, d: int) -> float | None:
        """1: exact."""
        return 1.0
