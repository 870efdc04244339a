"""Iterates: compress the next model instead of the gradient.

With x_i a gradient and params the model at which it was taken, worker i exchanges the model after a step of length
gamma, and converts the result back to a gradient:
    send T_i = params - gamma x_i,    own_i = (params - what was sent of T_i) / gamma,    mean likewise.
An optimizer's step of length eta gamma along the mean is then (1 - eta) params + eta * the average of what was sent.

| method  | is                                        | source                                                      |
|---------|-------------------------------------------|-------------------------------------------------------------|
| GDCI    | Iterates(Gathered(Q), gamma)              | Khaled and Richtárik 2019, arXiv:1909.04716                 |
| VR-GDCI | Iterates(Shifted(..., Follow(a)), gamma)  | Shulgin and Richtárik 2022, arXiv:2206.10452: shifts follow |
|         |                                           | T_i, and the error of compression vanishes                  |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.exchange.change import Change, change_
from gradwire.exchange.protocol import NOMINAL, Exchange, State, check_exchange, nest
from gradwire.layout import Layout, Turn
from gradwire.memory.shift import DIANA
from gradwire.registry import part
from gradwire.vector import Offset, Sent, widen


@part("iterates", "memory", example="iterates(diana(natural), gamma=0.1)")
@dataclass(frozen=True)
class Iterates:
    """Compress params - gamma x, the model after a step of length gamma, instead of the gradient x."""

    exchange: Exchange
    gamma: float

    def __post_init__(self) -> None:
        check_exchange(self.exchange, "iterates")
        if not 0 < self.gamma < float("inf"):
            raise ValueError(f"gamma must be positive and finite, got {self.gamma}")

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make the inner exchange's state."""
        return {"inner": self.exchange.init(layout, dtype, device, batch_shape)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Exchange params - gamma x. Raises ValueError if the turn has no params."""
        if turn.params is None:
            raise ValueError("iterates compresses the model after a step and needs to know the model: give params")
        x, params = widen(x), turn.params()
        sent = await self.exchange(params.to(x.dtype) - self.gamma * x, nest(state, "inner"), turn)
        base = params.to(x.dtype) / self.gamma
        return Sent(own=Offset(base, sent.own, -1 / self.gamma), mean=Offset(base, sent.mean, -1 / self.gamma))

    async def change(self, state: State, change: Change) -> None:
        """Change the inner exchange's state."""
        await change_(self.exchange, nest(state, "inner"), change)

    def omega(self, d: int) -> float | None:
        """Return 0 if nothing is lost, else None: the variance is relative to x - params / gamma, not to x."""
        return 0.0 if self.exchange.omega(d) == 0.0 else None

    def delta(self, d: int) -> float | None:
        """Return None: `own` may be larger than x."""
        return None


@part("gdci", "memory", example="gdci(natural, gamma=0.1)")
def GDCI(exchange: Exchange, gamma: float) -> Iterates:
    """Gradient descent with compressed iterates (Khaled and Richtárik 2019, arXiv:1909.04716): unbiased operators."""
    check_exchange(exchange, "gdci")
    if exchange.omega(NOMINAL) is None:
        raise ValueError(f"gdci needs an unbiased operator, and {exchange} is biased")
    return Iterates(exchange, gamma)


@part("vrgdci", "memory", example="vrgdci(natural, gamma=0.1)")
def VRGDCI(exchange: Exchange, gamma: float, alpha: float | None = None) -> Iterates:
    """VR-GDCI (Shulgin and Richtárik 2022, arXiv:2206.10452): GDCI whose shifts follow the iterates like DIANA's."""
    return Iterates(DIANA(exchange, alpha), gamma)
