"""Blockwise: an operator on every block of `size` elements, each with a scale, a support, a noise of its own.

omega is the largest of the blocks', delta the smallest: the errors of disjoint blocks add, and each is bounded by its
block's part of |x|^2. All blocks have `size` elements but the last, which has the d % size that are left, if any.
Wire: | the blocks' messages, one after the other |; no elements at all are one empty block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.checks import is_whole
from gradwire.compress.protocol import Compressor, check_length, operate
from gradwire.compress.scaled import check_part
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense, Message, Sparse


@dataclass(frozen=True)
class Run:
    """Blocks of one size that lie one after the other from `start` on."""

    start: int
    blocks: int
    size: int


@part("blockwise", "compressor", example="blockwise(ternary, size=256)")
@dataclass(frozen=True)
class Blockwise:
    """Apply an operator to blocks of `size` elements one by one; the last may be shorter."""

    compressor: Compressor
    size: int

    def __post_init__(self) -> None:
        check_part(self.compressor, "blockwise")
        if not is_whole(self.size) or self.size < 1:
            raise ValueError(f"size must be a whole number of elements, at least 1, got {self.size!r}")

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)]."""
        wires = [self.compressor.encode(_rows(x, run), _fork(turn, run)) for run in self._runs(x.shape[-1])]
        return torch.cat([wire.flatten(-2) for wire in wires], -1)

    def decode(self, wire: Tensor, d: int) -> Message:
        """u8[..., nbytes(d)] -> Sparse or Dense, as the operator decodes."""
        check_length(self, wire, d)
        runs, messages, start = self._runs(d), list[Message](), 0
        for run in runs:
            length = self.compressor.nbytes(run.size)
            messages.append(self.compressor.decode(_rows(wire, Run(start, run.blocks, length)), run.size))
            start += run.blocks * length
        return _join(messages, runs, d)

    def apply(self, x: Tensor, turn: Turn) -> Message:
        """f[..., d] -> what is decoded, in x's dtype."""
        runs = self._runs(x.shape[-1])
        messages = [operate(self.compressor, _rows(x, run), _fork(turn, run)) for run in runs]
        return _join(messages, runs, x.shape[-1]).to(x.dtype)

    def nbytes(self, d: int) -> int:
        """Bytes on the wire: of all blocks."""
        return sum(run.blocks * self.compressor.nbytes(run.size) for run in self._runs(d))

    def omega(self, d: int) -> float | None:
        """The largest of the blocks'; None if one is biased."""
        omegas = [self.compressor.omega(run.size) for run in self._runs(d)]
        return None if None in omegas else max(omega or 0.0 for omega in omegas)

    def delta(self, d: int) -> float | None:
        """The smallest of the blocks'; None if one may expand."""
        deltas = [self.compressor.delta(run.size) for run in self._runs(d)]
        return None if None in deltas else min(delta or 0.0 for delta in deltas)

    def _runs(self, d: int) -> list[Run]:
        """The whole blocks, if there are any, and the shorter one, if there is one."""
        blocks, rest = divmod(d, self.size)
        whole, last = Run(0, blocks, self.size), Run(d - rest, 1, rest)
        return [whole, last] if blocks and rest else [whole] if blocks else [last]


def _rows(flat: Tensor, run: Run) -> Tensor:
    """View the part of [..., m] that a run covers as [..., blocks, size]."""
    return flat.narrow(-1, run.start, run.blocks * run.size).view(*flat.shape[:-1], run.blocks, run.size)


def _fork(turn: Turn, run: Run) -> Turn:
    """Randomness of a run's own; inside it every block is a row."""
    return turn.fork(f"blocks of {run.size}")


def _join(messages: list[Message], runs: list[Run], d: int) -> Message:
    """One vector out of the runs', which are [..., blocks, size] each."""
    sparse = [(message, run) for message, run in zip(messages, runs, strict=True) if isinstance(message, Sparse)]
    if len(sparse) < len(messages):
        return Dense(torch.cat([message.dense().flatten(-2) for message in messages], -1))
    indices = [(message.indices + _starts(run, message.indices.device)).flatten(-2) for message, run in sparse]
    return Sparse(torch.cat(indices, -1), torch.cat([message.values.flatten(-2) for message, _ in sparse], -1), d)


def _starts(run: Run, device: torch.device) -> Tensor:
    """Where a run's blocks start: int64[blocks, 1]."""
    return run.start + run.size * torch.arange(run.blocks, device=device).unsqueeze(-1)
