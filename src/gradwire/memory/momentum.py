"""Momentum before compression: exchange a running average of the worker's own gradients.

    v = (1 - eta) v + eta x, starting at the first x; then v is exchanged.
Over EF21 this is EF21-SGDM (Fatkhullin, Tyurin and Richtárik 2023, arXiv:2305.15155), which does not need EF21's large
batches. The law of exchanges holds: the mean is the average of what the workers sent of their v.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.ask import Broadcast
from gradwire.exchange.change import Change, change_
from gradwire.exchange.protocol import Exchange, State, check_exchange, nest, tensor
from gradwire.layout import Layout, Turn
from gradwire.memory.shift import EF21
from gradwire.registry import part
from gradwire.vector import Sent


@part("momentum", "memory", example="momentum(ef21(topk(density=0.01)), eta=0.1)")
@dataclass(frozen=True)
class Momentum:
    """Exchange the running average v of the worker's vectors, in which the newest has weight eta."""

    exchange: Exchange
    eta: float

    def __post_init__(self) -> None:
        check_exchange(self.exchange, "momentum")
        if not 0 < self.eta <= 1:
            raise ValueError(f"eta must lie in (0, 1], got {self.eta}")

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make v, zeros [*batch_shape, d]."""
        v = torch.zeros((*batch_shape, layout.d), dtype=dtype, device=device)
        return {"v": v, "inner": self.exchange.init(layout, dtype, device, batch_shape)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Update v in place, and exchange it."""
        v = tensor(state, "v")
        if turn.step == 0:
            v.copy_(x)
        else:
            v.lerp_(x.to(v.dtype), self.eta)
        return await self.exchange(v, nest(state, "inner"), turn)

    async def change(self, state: State, change: Change) -> None:
        """Keep the running average of a worker that stays; one that joins starts with the source's."""
        theirs = await Broadcast(tensor(state, "v"), change.source)
        if change.joined:
            tensor(state, "v").copy_(theirs)
        await change_(self.exchange, nest(state, "inner"), change)

    def omega(self, d: int) -> float | None:
        """Return None: `own` also contains past vectors."""
        return None

    def delta(self, d: int) -> float | None:
        """Return None: because of the memory, `own` may be larger than x."""
        return None


@part("ef21sgdm", "memory", example="ef21sgdm(topk(density=0.01), eta=0.1)")
def EF21SGDM(exchange: Exchange, eta: float = 0.1) -> Momentum:
    """EF21 with momentum (Fatkhullin, Tyurin and Richtárik 2023, arXiv:2305.15155): contractive operators."""
    return Momentum(EF21(exchange), eta)
