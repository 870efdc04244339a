"""Guard: a value that is not finite never enters a memory.

The workers agree by one number whether anybody's vector holds an inf or a NaN. If so, the plain mean goes through, so
that whoever checks gradients (a GradScaler, clipping by norm) sees it, and the state inside stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import Sum
from gradwire.exchange.protocol import Exchange, State, Taker, tensor
from gradwire.layout import Layout, Turn
from gradwire.vector import Dense, Sent


@dataclass(frozen=True)
class Guard:
    """Pass a step with a non-finite value through uncompressed and leave the memory untouched."""

    exchange: Exchange

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        lead: tuple[int, ...] = (),
    ) -> State:
        """The inner exchange's state and nothing else."""
        return self.exchange.init(layout, dtype, device, lead)

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """One Sum of a single number, then the exchange, or one Sum of f[d].

        Of an x that was given with the memory in it the mean is the gradients' but for rounding.
        """
        broken = await Sum(_broken(x, turn))
        if broken.item() == 0.0:
            return await self.exchange(x, state, turn)
        if turn.given and self.takes is not None:
            x.sub_(tensor(state, self.takes))
        total = await Sum(x)
        return Sent(own=Dense(x.clone()), mean=Dense(total.div_(turn.size)), finite=False)

    @property
    def takes(self) -> str | None:
        """The inner exchange's."""
        return self.exchange.takes if isinstance(self.exchange, Taker) else None

    def omega(self, d: int) -> float | None:
        """The inner exchange's."""
        return self.exchange.omega(d)

    def delta(self, d: int) -> float | None:
        """The inner exchange's."""
        return self.exchange.delta(d)


def _broken(x: Tensor, turn: Turn) -> Tensor:
    """1 where f[..., d] holds a value that is not finite, else 0: f32[..., 1]. Looks only if nobody has yet."""
    if turn.seen is not None and turn.seen.finite is not None:
        return torch.full((1,), float(not turn.seen.finite), device=x.device)
    return (~kernels.finite(x)).to(torch.float32)
