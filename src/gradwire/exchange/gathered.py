"""Gathered: every worker sends its compressed vector to every other, and all average what they decode."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.ask import Gather
from gradwire.compress.protocol import Compressor
from gradwire.exchange.protocol import State
from gradwire.layout import Layout, Turn
from gradwire.vector import Sent, widen


@dataclass(frozen=True)
class Gathered:
    """Gather any compressor's messages; each worker sends nbytes(d) to each other."""

    compressor: Compressor

    def init(self, layout: Layout, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> State:
        """Nothing to remember."""
        return {}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """One Gather of u8[nbytes(d)]."""
        x = widen(x)
        wires = await Gather(self.compressor.encode(x, turn))
        # In x's dtype before averaging, so that the mean is the average of the `own`s also in float64.
        said = self.compressor.decode(wires, x.shape[-1]).to(x.dtype)
        return Sent(own=said.row(turn.rank), mean=said.average())

    def omega(self, d: int) -> float | None:
        """The compressor's."""
        return self.compressor.omega(d)

    def delta(self, d: int) -> float | None:
        """The compressor's."""
        return self.compressor.delta(d)
