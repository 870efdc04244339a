"""Blockwise: an operator on every block of `size` elements, each with its own scale, support and noise.

omega is the largest of the blocks', delta the smallest: the errors of disjoint blocks add, and each is bounded by its
block's part of |x|^2. The last block has d % size elements if that is not 0; all others have `size`.
Wire: | the blocks' messages, one after the other |; an empty vector is one empty block.
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
class Blocks:
    """Blocks of one size that lie one after the other from `start` on."""

    start: int
    count: int
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
        wires = [self.compressor.encode(_rows(x, blocks), _fork(turn, blocks)) for blocks in self._cut(x.shape[-1])]
        return torch.cat([wire.flatten(-2) for wire in wires], -1)

    def decode(self, wire: Tensor, d: int) -> Message:
        """u8[..., nbytes(d)] -> Sparse or Dense, as the operator decodes."""
        check_length(self, wire, d)
        messages, start = list[Message](), 0
        for blocks in self._cut(d):
            length = self.compressor.nbytes(blocks.size)
            rows = _rows(wire, Blocks(start, blocks.count, length))
            messages.append(self.compressor.decode(rows, blocks.size))
            start += blocks.count * length
        return _join(messages, self._cut(d), d)

    def apply(self, x: Tensor, turn: Turn) -> Message:
        """f[..., d] -> what is decoded, in x's dtype."""
        cut = self._cut(x.shape[-1])
        messages = [operate(self.compressor, _rows(x, blocks), _fork(turn, blocks)) for blocks in cut]
        return _join(messages, cut, x.shape[-1]).to(x.dtype)

    def nbytes(self, d: int) -> int:
        """Bytes on the wire: of all blocks."""
        return sum(blocks.count * self.compressor.nbytes(blocks.size) for blocks in self._cut(d))

    def omega(self, d: int) -> float | None:
        """The largest of the blocks'; None if one is biased."""
        omegas = [self.compressor.omega(blocks.size) for blocks in self._cut(d)]
        return None if None in omegas else max(omega or 0.0 for omega in omegas)

    def delta(self, d: int) -> float | None:
        """The smallest of the blocks'; None if one may expand."""
        deltas = [self.compressor.delta(blocks.size) for blocks in self._cut(d)]
        return None if None in deltas else min(delta or 0.0 for delta in deltas)

    def _cut(self, d: int) -> list[Blocks]:
        """The whole blocks, if there are any, and the shorter one, if there is one."""
        count, rest = divmod(d, self.size)
        whole, last = Blocks(0, count, self.size), Blocks(d - rest, 1, rest)
        return [whole, last] if count and rest else [whole] if count else [last]


def _rows(flat: Tensor, blocks: Blocks) -> Tensor:
    """View the part of [..., m] that the blocks cover as [..., count, size]."""
    span = flat.narrow(-1, blocks.start, blocks.count * blocks.size)
    return span.view(*flat.shape[:-1], blocks.count, blocks.size)


def _fork(turn: Turn, blocks: Blocks) -> Turn:
    """A stream of randomness for blocks of one size; each block is a row in it."""
    return turn.fork(f"blocks of {blocks.size}")


def _join(messages: list[Message], cut: list[Blocks], d: int) -> Message:
    """One vector of the blocks' messages, which are [..., count, size] each."""
    sparse = [(message, blocks) for message, blocks in zip(messages, cut, strict=True) if isinstance(message, Sparse)]
    if len(sparse) < len(messages):
        return Dense(torch.cat([message.dense().flatten(-2) for message in messages], -1))
    indices = [(message.indices + _starts(blocks, message.indices.device)).flatten(-2) for message, blocks in sparse]
    return Sparse(torch.cat(indices, -1), torch.cat([message.values.flatten(-2) for message, _ in sparse], -1), d)


def _starts(blocks: Blocks, device: torch.device) -> Tensor:
    """The index at which each block starts: int64[count, 1]."""
    return blocks.start + blocks.size * torch.arange(blocks.count, device=device).unsqueeze(-1)
