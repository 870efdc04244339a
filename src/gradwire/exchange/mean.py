"""Mean: the plain average, nothing lost. What DDP does without gradwire."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.ask import Sum
from gradwire.exchange.protocol import State
from gradwire.layout import Layout, Turn
from gradwire.vector import Dense, Sent


@dataclass(frozen=True)
class Mean:
    """Average every value, in the gradient's own dtype."""

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
        """One Sum of f[d], divided beforehand: the sum of two halves of float16 may be inf where their mean is not."""
        return Sent(own=Dense(x.clone()), mean=Dense(await Sum(x / turn.size)))

    def omega(self, d: int) -> float | None:
        """0: exact."""
        return 0.0

    def delta(self, d: int) -> float | None:
        """1: exact."""
        return 1.0
