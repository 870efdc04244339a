"""Guard: a value that is not finite never enters a memory.

The workers agree by one number whether any vector holds an inf or a NaN. If so, the plain mean passes through, so that
a GradScaler or clipping by norm sees it, and the state inside stays as it was.

A caller that can roll the state back hands over an `Accumulated`, as the engine does. Then that number travels with the
first message (docs/formats.md), and saves a collective: if any worker's flag is set, the exchange is given up, and the
caller rolls back.

With the number goes a tag of step and unit, so that no message is taken for one of another unit or step.
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

    async def __call__(self, x: Tensor | Accumulated, state: State, turn: Turn) -> Sent:
        """One AllReduce of a single number, then the exchange, or one AllReduce of f[d].

        Where an `Accumulated` knows `finite`, the number travels with the exchange's first ask. After a step
        whose `Sent` is not finite the caller must then make the state what it was, by `rollback` if x has a residual.
        """
        if not isinstance(x, Accumulated):
            broken = (~kernels.finite(x)).to(torch.float32)
            return await _agreed(self.exchange, x, broken, state, turn)
        if x.finite is not None:
            return await self._carried(x, state, turn)
        finite = kernels.finite(x.values) if x.finite is None else torch.tensor([x.finite], device=x.values.device)
        return await _agreed(self.exchange, x, (~finite).to(torch.float32), state, turn)

    def accumulate(self, pieces: Sequence[Tensor], state: State, turn: Turn) -> Accumulated | None:
        """The inner exchange's."""
        return self.exchange.accumulate(pieces, state, turn) if isinstance(self.exchange, Accumulates) else None

    def rollback(self, state: State) -> None:
        """The inner exchange's."""
        if isinstance(self.exchange, Accumulates):
            self.exchange.rollback(state)

    def logged(self) -> frozenset[str]:
        """The inner exchange's."""
        return logged(self.exchange)

    async def _carried(self, x: Accumulated, state: State, turn: Turn) -> Sent:
        """Start the exchange, of zeros if x is not finite, and give it up where any worker's x is not.

        If a residual is subtracted again, the plain mean is then exact up to the rounding of the sum: of bfloat16 that
        is 2^-7 of it.
        """
        plain = None if x.finite else x.pieces()
        if plain is not None:
            x = x.zeroed()
        talk, told, anybody = step(self.exchange, _given(x), state, turn), False, False
        try:
            answer, anybody = await _carry(talk.send(None), turn, flag=plain is not None)
            told = True
            while not anybody:
                answer = await talk.send(answer)
        except StopIteration as end:
            if told or not await _agree(plain is not None, turn):
                return end.value
        finally:
            talk.close()
        return await _pass_through(x.pieces() if plain is None else plain, turn)

    async def change(self, state: State, change: Change) -> None:
        """The inner exchange's."""
        await change_(self.exchange, state, change)

    def omega(self, d: int) -> float | None:
        """The inner exchange's."""
        return self.exchange.omega(d)

    def delta(self, d: int) -> float | None:
        """The inner exchange's."""
        return self.exchange.delta(d)


async def _agreed(exchange: Exchange, x: Tensor | Accumulated, broken: Tensor, state: State, turn: Turn) -> Sent:
    """Agree first: 1 of f32[..., 1] is a vector that is not finite. Then the exchange, or the plain mean."""
    mark = tag_offset(turn.tag, turn.size)
    if any_flag_in_sum(await AllReduce(broken + mark), mark, turn.size):
        return await _pass_through(x.pieces() if isinstance(x, Accumulated) else x.clone(), turn)
    return await step(exchange, _given(x), state, turn)


def _given(x: Tensor | Accumulated) -> Tensor:
    """What the exchange takes: one that has accumulated x itself takes the `Accumulated`, any other the values."""
    return cast(Tensor, x) if isinstance(x, Accumulated) and x.residual is not None else kernels.values(x)


async def _pass_through(plain: Tensor, turn: Turn) -> Sent:
    """The plain mean, uncompressed."""
    total = await AllReduce(plain)
    return Sent(own=Dense(plain), mean=Dense(total.div_(turn.size)), finite=False)


async def _agree(flag: bool, turn: Turn) -> bool:
    """Whether any worker's flag is set: a message of its own."""
    mark = tag_offset(turn.tag, turn.size)
    return any_flag_in_sum(await AllReduce(torch.tensor([float(flag + mark)])), mark, turn.size)


async def _carry(ask: Ask, turn: Turn, *, flag: bool) -> tuple[Tensor, bool]:
    """Ask, with a flag: the answer, and whether any worker's flag is set. Then the answer must not be used."""
    rank = turn.rank if isinstance(turn.rank, int) else 0
    if (joined := ask.carrying(flag, turn.tag, turn.size, rank)) is not None:
        return ask.carried(await joined, turn.tag, turn.size)
    anybody = await _agree(flag, turn)
    return (await ask if not anybody else torch.empty(0)), anybody
