"""Guard: a value that is not finite never enters a memory.

The workers agree by one number whether any vector holds an inf or a NaN. If so, the step returns the plain mean, for a
GradScaler or clipping by norm to see, and the inner state does not change.

A caller that can roll the state back, such as the engine, passes an `Accumulated`. Then the number travels with the
exchange's first message (docs/formats.md), which saves a collective: if any worker's flag is set, the exchange is
abandoned, and the caller rolls back.

A tag of step and unit travels with the number, so that a message of another unit or step is detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllReduce, Ask, any_flag_in_sum, tag_offset
from gradwire.exchange.change import Change, change_
from gradwire.exchange.protocol import Accumulates, Exchange, State
from gradwire.exchange.step import step
from gradwire.exchange.undo import logged
from gradwire.kernels import Accumulated
from gradwire.layout import Layout, Turn
from gradwire.registry import part
from gradwire.vector import Dense, Sent


@part("guard", "memory", example="guard(ef(topk(density=0.01)))")
@dataclass(frozen=True)
class Guard:
    """Average a step with a non-finite value uncompressed, and leave the memory untouched."""

    exchange: Exchange

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Return the inner exchange's state."""
        return self.exchange.init(layout, dtype, device, batch_shape)

    async def __call__(self, x: Tensor | Accumulated, state: State, turn: Turn) -> Sent:
        """AllReduce one number, then exchange x, or, if a value is not finite, AllReduce f[d].

        If x is an `Accumulated` with a known `finite`, the number travels with the exchange's first ask. After a step
        whose `Sent` is not finite, the caller must then restore the state, by `rollback` if x has a residual.
        """
        if not isinstance(x, Accumulated):
            broken = (~kernels.finite(x)).to(torch.float32)
            return await _agree_first(self.exchange, x, broken, state, turn)
        if x.finite is not None:
            return await self._carried(x, state, turn)
        finite = kernels.finite(x.values) if x.finite is None else torch.tensor([x.finite], device=x.values.device)
        return await _agree_first(self.exchange, x, (~finite).to(torch.float32), state, turn)

    def accumulate(self, pieces: Sequence[Tensor], state: State, turn: Turn) -> Accumulated | None:
        """Call the inner exchange's `accumulate`; None if it has none."""
        return self.exchange.accumulate(pieces, state, turn) if isinstance(self.exchange, Accumulates) else None

    def rollback(self, state: State) -> None:
        """Call the inner exchange's `rollback`."""
        if isinstance(self.exchange, Accumulates):
            self.exchange.rollback(state)

    def logged(self) -> frozenset[str]:
        """Return the names that the inner exchange logs."""
        return logged(self.exchange)

    async def _carried(self, x: Accumulated, state: State, turn: Turn) -> Sent:
        """Run the exchange with a flag on its first ask, and abandon it if any worker's x is not finite.

        A worker whose x is not finite exchanges zeros meanwhile. Subtracting a residual from x again gives the plain
        vector up to the rounding of the sum: for bfloat16, 2^-7 of it.
        """
        plain = None if x.finite else x.pieces()
        if plain is not None:
            x = x.zeroed()
        talk, flagged, any_flag = step(self.exchange, _argument(x), state, turn), False, False
        try:
            answer, any_flag = await _carry(talk.send(None), turn, flag=plain is not None)
            flagged = True
            while not any_flag:
                answer = await talk.send(answer)
        except StopIteration as end:
            if flagged or not await _any_flag(plain is not None, turn):
                return end.value
        finally:
            talk.close()
        return await _plain_mean(x.pieces() if plain is None else plain, turn)

    async def change(self, state: State, change: Change) -> None:
        """Change the inner exchange's state."""
        await change_(self.exchange, state, change)

    def omega(self, d: int) -> float | None:
        """Return the inner exchange's omega."""
        return self.exchange.omega(d)

    def delta(self, d: int) -> float | None:
        """Return the inner exchange's delta."""
        return self.exchange.delta(d)


async def _agree_first(exchange: Exchange, x: Tensor | Accumulated, broken: Tensor, state: State, turn: Turn) -> Sent:
    """Sum the flags `broken` f32[..., 1] first; then run the exchange, or return the plain mean if any is 1."""
    offset = tag_offset(turn.tag, turn.size)
    if any_flag_in_sum(await AllReduce(broken + offset), offset, turn.size):
        return await _plain_mean(x.pieces() if isinstance(x, Accumulated) else x.clone(), turn)
    return await step(exchange, _argument(x), state, turn)


def _argument(x: Tensor | Accumulated) -> Tensor:
    """Return the exchange's argument: the `Accumulated` if the exchange has made it, else the values."""
    return cast(Tensor, x) if isinstance(x, Accumulated) and x.residual is not None else kernels.values(x)


async def _plain_mean(plain: Tensor, turn: Turn) -> Sent:
    """Average f[..., d] uncompressed."""
    total = await AllReduce(plain)
    return Sent(own=Dense(plain), mean=Dense(total.div_(turn.size)), finite=False)


async def _any_flag(flag: bool, turn: Turn) -> bool:
    """Whether any worker's flag is set, by an AllReduce of its own."""
    offset = tag_offset(turn.tag, turn.size)
    return any_flag_in_sum(await AllReduce(torch.tensor([float(flag + offset)])), offset, turn.size)


async def _carry(ask: Ask, turn: Turn, *, flag: bool) -> tuple[Tensor, bool]:
    """Ask with a flag; return the answer, and whether any worker's flag is set. If so, the answer must not be used."""
    rank = turn.rank if isinstance(turn.rank, int) else 0
    if (joined := ask.carrying(flag, turn.tag, turn.size, rank)) is not None:
        return ask.carried(await joined, turn.tag, turn.size)
    any_flag = await _any_flag(flag, turn)
    return (await ask if not any_flag else torch.empty(0)), any_flag
