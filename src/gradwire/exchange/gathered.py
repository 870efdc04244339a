"""Gathered: every worker sends its compressed vector to every other, and all average what they decode."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gradwire.ask import AllGather
from gradwire.compress.protocol import Compressor, Ragged, operate
from gradwire.exchange.protocol import State, stateless
from gradwire.layout import Turn
from gradwire.reprs import implied
from gradwire.vector import Message, Sent, widen


@implied
@dataclass(frozen=True)
class Gathered:
    """Gather any compressor's messages; each worker sends nbytes(d) to each other.

    Of a `Ragged` compressor's it first gathers the lengths, 8 bytes, and then as many bytes as the longest takes.
    """

    compressor: Compressor

    init = stateless

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """One AllGather of u8[nbytes(d)]; two if the messages are ragged."""
        x = widen(x)
        # In x's dtype before averaging, so that the mean is the average of the `own`s also in float64.
        said = (await self._hear(x, turn)).to(x.dtype)
        return Sent(own=said if isinstance(turn.rank, slice) else said.row(turn.rank), mean=said.average())

    async def _hear(self, x: Tensor, turn: Turn) -> Message:
        """What every worker has said, a row each."""
        c, d = self.compressor, x.shape[-1]
        if _is_ragged(type(c)):
            return c.decode(await _gather_ragged(c.encode(x, turn)), d)
        if isinstance(turn.rank, slice):
            # All rows are here and nobody reads bytes: as many as there would be are only counted.
            await AllGather(_unread(x.shape[:-1], c.nbytes(d), x.device))
            return operate(c, x, turn)
        return c.decode(await AllGather(c.encode(x, turn)), d)

    def omega(self, d: int) -> float | None:
        """The compressor's."""
        return self.compressor.omega(d)

    def delta(self, d: int) -> float | None:
        """The compressor's."""
        return self.compressor.delta(d)


@lru_cache
def _is_ragged(kind: type) -> bool:
    """Remembered: to look through a protocol takes longer than a round of a small problem may."""
    return issubclass(kind, Ragged)


@lru_cache(maxsize=64)
def _unread(batch_shape: torch.Size, length: int, device: torch.device) -> Tensor:
    """One byte in as many places as u8[*batch_shape, length] has."""
    return torch.zeros(1, dtype=torch.uint8, device=device).expand(*batch_shape, length)


async def _gather_ragged(wire: Tensor) -> Tensor:
    """Gather u8[m] of a length that differs among workers: u8[n, largest m], zeros after the shorter ones."""
    length = torch.full((*wire.shape[:-1], 1), wire.shape[-1], device=wire.device).view(torch.uint8)
    longest = int((await AllGather(length)).view(torch.int64).max())
    return await AllGather(torch.nn.functional.pad(wire, (0, longest - wire.shape[-1])))
