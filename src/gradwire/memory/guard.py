"""Guard: a value that is not finite never enters a memory.

The workers agree by one number whether anybody's vector holds an inf or a NaN. If so, the plain mean goes through, so
that whoever checks gradients (a GradScaler, clipping by norm) sees it, and the state inside stays as it was. A caller
that can put the state back spares the collective: the number goes along with the first message, and the exchange is
given up if it says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllReduce, Ask
from gradwire.exchange.protocol import Exchange, State, Taker, tensor
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Dense, Sent


@part("guard", "memory", example="guard(ef(topk(density=0.01)))")
@dataclass(frozen=True)
class Guard:
    """Pass a step with a non-finite value through uncompressed and leave the memory untouched."""

    exchange: Exchange

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """The inner exchange's state and nothing else."""
        return self.exchange.init(layout, dtype, device, batch_shape)

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """One AllReduce of a single number, then the exchange, or one AllReduce of f[d].

        Where the caller can put the state back (`Turn.given`), the number goes along with the exchange's first ask.
        """
        if turn.given and self.takes is not None and turn.seen is not None and turn.seen.finite is not None:
            return await self._go_along(x, state, turn, tensor(state, self.takes), broken=not turn.seen.finite)
        broken = await AllReduce(_broken(x, turn))
        if broken.item() == 0.0:
            return await self.exchange(x, state, turn)
        return await _through(x.clone(), turn)

    async def _go_along(self, x: Tensor, state: State, turn: Turn, memory: Tensor, *, broken: bool) -> Sent:
        """Begin the exchange, of zeros if x is broken, and give it up where anybody's is.

        Of gradients that lie in x with the memory added, the plain mean is right but for rounding.
        """
        plain = x - memory if broken else None
        if broken:
            x.zero_()
        talk = self.exchange(x, state, turn)
        try:
            answer, anybody = await _carry(talk.send(None), broken)
            while not anybody:
                answer = await talk.send(answer)
        except StopIteration as end:
            return end.value
        finally:
            talk.close()
        return await _through(x - memory if plain is None else plain, turn)

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


async def _through(plain: Tensor, turn: Turn) -> Sent:
    """The plain mean, uncompressed."""
    total = await AllReduce(plain)
    return Sent(own=Dense(plain), mean=Dense(total.div_(turn.size)), finite=False)


async def _carry(ask: Ask, broken: bool) -> tuple[Tensor, bool]:
    """Ask, and along with it whether anybody's vector is broken: the answer, and that."""
    if (joined := ask.carrying(broken)) is not None:
        return ask.carried(await joined)
    anybody = bool((await AllReduce(torch.tensor([float(broken)]))).item())
    return (await ask if not anybody else torch.empty(0)), anybody


def _broken(x: Tensor, turn: Turn) -> Tensor:
    """1 where f[..., d] holds a value that is not finite, else 0: f32[..., 1]. Looks only if nobody has yet."""
    if turn.seen is not None and turn.seen.finite is not None:
        return torch.full((1,), float(not turn.seen.finite), device=x.device)
    return (~kernels.finite(x)).to(torch.float32)
