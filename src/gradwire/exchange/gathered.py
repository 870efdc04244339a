"""Gathered: every worker sends its compressed vector to every other, and all average what they decode."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.ask import Gather
from gradwire.compress.protocol import Compressor, Direct, Ragged
from gradwire.exchange.protocol import State
from gradwire.layout import Layout, Turn
from gradwire.vector import Message, Sent, widen


@dataclass(frozen=True)
class Gathered:
    """Gather any compressor's messages; each worker sends nbytes(d) to each other.

    Of a `Ragged` compressor's it first gathers the lengths, 8 bytes, and then as many bytes as the longest takes.
    """

    compressor: Compressor

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
        """One Gather of u8[nbytes(d)]; two if the messages are ragged."""
        x = widen(x)
        # In x's dtype before averaging, so that the mean is the average of the `own`s also in float64.
        said = (await self._hear(x, turn)).to(x.dtype)
        return Sent(own=said.row(turn.rank), mean=said.average())

    async def _hear(self, x: Tensor, turn: Turn) -> Message:
        """What every worker has said, a row each."""
        c, d = self.compressor, x.shape[-1]
        if isinstance(c, Ragged):
            return c.decode(await _gather_ragged(c.encode(x, turn)), d)
        if isinstance(turn.rank, slice) and isinstance(c, Direct):
            # All rows are here and nobody reads bytes: one byte in as many places as there would be is only counted.
            await Gather(x.new_empty(1, dtype=torch.uint8).expand(*x.shape[:-1], c.nbytes(d)))
            return c.apply(x, turn)
        return c.decode(await Gather(c.encode(x, turn)), d)

    def omega(self, d: int) -> float | None:
        """The compressor's."""
        return self.compressor.omega(d)

    def delta(self, d: int) -> float | None:
        """The compressor's."""
        return self.compressor.delta(d)


async def _gather_ragged(wire: Tensor) -> Tensor:
    """Gather u8[m] of a length that differs among workers: u8[n, largest m], zeros after the shorter ones."""
    length = torch.full((*wire.shape[:-1], 1), wire.shape[-1], device=wire.device).view(torch.uint8)
    longest = int((await Gather(length)).view(torch.int64).max())
    return await Gather(torch.nn.functional.pad(wire, (0, longest - wire.shape[-1])))
