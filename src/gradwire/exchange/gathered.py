"""Gathered: every worker sends its compressed vector to all others, and averages the decoded vectors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.ask import AllGather
from gradwire.compress.protocol import Compressor, Ragged, operate
from gradwire.exchange.protocol import State, stateless, wants_largest
from gradwire.kernels import Accumulated
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.reprs import implied
from gradwire.vector import Message, Sent, wide, widen


@part("gathered", "exchange", example="gathered(natural)")
@implied
@dataclass(frozen=True)
class Gathered:
    """Gather any compressor's messages; each worker sends nbytes(d) to every other worker.

    With a `Ragged` compressor it first gathers the lengths, 8 bytes each, then messages padded to the longest.
    """

    compressor: Compressor

    init = stateless

    def wants_largest(self, turn: Turn) -> int:
        """Return the compressor's."""
        return wants_largest(self.compressor, turn)

    async def __call__(self, x: Tensor | Accumulated, state: State, turn: Turn) -> Sent:
        """Use one AllGather of u8[nbytes(d)], or two if the messages are ragged."""
        x = x if isinstance(x, Accumulated) else widen(x)
        # In x's dtype before averaging, so that the mean is the average of the `own` in float64 too.
        decoded = (await self._exchange(x, turn)).to(wide(kernels.values(x).dtype))
        return Sent(own=decoded if isinstance(turn.rank, slice) else decoded.row(turn.rank), mean=decoded.average())

    async def _exchange(self, x: Tensor | Accumulated, turn: Turn) -> Message:
        """Gather and decode every worker's message, one row each."""
        c, like = self.compressor, kernels.values(x)
        d, x = like.shape[-1], cast(Tensor, x)  # only a `Selective` compressor is given anything else
        if _is_ragged(type(c)):
            return c.decode(await _gather_ragged(c.encode(x, turn), c.nbytes(d)), d)
        if isinstance(turn.rank, slice):
            # Batched mode does not serialise: the ledger counts the bytes that would be sent.
            await AllGather(_placeholder(like.shape[:-1], c.nbytes(d), like.device))
            return operate(c, x, turn)
        return c.decode(await AllGather(c.encode(x, turn)), d)

    def omega(self, d: int) -> float | None:
        """Return the compressor's omega."""
        return self.compressor.omega(d)

    def delta(self, d: int) -> float | None:
        """Return the compressor's delta."""
        return self.compressor.delta(d)


@lru_cache
def _is_ragged(kind: type) -> bool:
    """Whether a compressor class is `Ragged`; cached, because a protocol check is slow for rounds on short vectors."""
    return issubclass(kind, Ragged)


@lru_cache(maxsize=64)
def _placeholder(batch_shape: torch.Size, length: int, device: torch.device) -> Tensor:
    """Return u8[*batch_shape, length] with the shape of the messages, backed by a single byte."""
    return torch.zeros(1, dtype=torch.uint8, device=device).expand(*batch_shape, length)


async def _gather_ragged(wire: Tensor, most: int) -> Tensor:
    """Gather u8[m], where m differs among workers: u8[n, largest m], padded with zeros.

    Raises:
        ValueError: a length is below 0 or above `most`; no memory of that length is allocated.
    """
    length = torch.full((*wire.shape[:-1], 1), wire.shape[-1], device=wire.device).view(torch.uint8)
    lengths = (await AllGather(length)).view(torch.int64)
    shortest, longest = int(lengths.min()), int(lengths.max())
    if not 0 <= shortest <= longest <= most or longest < wire.shape[-1]:
        raise ValueError(
            f"gathered: workers announce messages of {shortest} to {longest} bytes, and {most} is the most"
        )
    return await AllGather(torch.nn.functional.pad(wire, (0, longest - wire.shape[-1])))
