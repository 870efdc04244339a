"""Blockwise: an operator on every block of `size` elements, each with its own scale, support and noise.

omega is the largest of the blocks', delta the smallest, because the squared errors of disjoint blocks add up, and each
is bounded by its block's part of |x|^2. The last block has d % size elements if that is not 0; all others have `size`.
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
    """`count` consecutive blocks of one size, from index `start` on."""

    start: int
    count: int
    size: int


@part("blockwise", "compressor", example="blockwise(ternary, size=256)")
@dataclass(frozen=True)
class Blockwise:
    """Apply an operator to every block of `size` elements; the last block may be shorter."""

    compressor: Compressor
    size: int

    def __post_init__(self) -> None:
        check_part(self.compressor, "blockwise")
        if not is_whole(self.size) or self.size < 1:
            raise ValueError(f"size must be a whole number of elements, at least 1, got {self.size!r}")

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)]."""
        wires = [self.compressor.encode(_rows(x, blocks), _fork(turn, blocks)) for blocks in self._cut(x.shape[-1])]
        return _end_to_end(wires)

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
        """f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        cut = self._cut(x.shape[-1])
        messages = [operate(self.compressor, _rows(x, blocks), _fork(turn, blocks)) for blocks in cut]
        return _join(messages, cut, x.shape[-1]).to(x.dtype)

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire, the sum over all blocks."""
        return sum(blocks.count * self.compressor.nbytes(blocks.size) for blocks in self._cut(d))

    def omega(self, d: int) -> float | None:
        """Return the largest omega of the blocks; None if one is biased."""
        omegas = [self.compressor.omega(blocks.size) for blocks in self._cut(d)]
        return None if None in omegas else max(omega or 0.0 for omega in omegas)

    def delta(self, d: int) -> float | None:
        """Return the smallest delta of the blocks; None if one may expand."""
        deltas = [self.compressor.delta(blocks.size) for blocks in self._cut(d)]
        return None if None in deltas else min(delta or 0.0 for delta in deltas)

    def _cut(self, d: int) -> list[Blocks]:
        """Return the whole blocks, if there are any, and the shorter one, if there is one."""
        count, rest = divmod(d, self.size)
        whole, last = Blocks(0, count, self.size), Blocks(d - rest, 1, rest)
        return [whole, last] if count and rest else [whole] if count else [last]


def _rows(flat: Tensor, blocks: Blocks) -> Tensor:
    """Return a view [..., count, size] of the blocks in [..., m]."""
    span = flat.narrow(-1, blocks.start, blocks.count * blocks.size)
    return span.view(*flat.shape[:-1], blocks.count, blocks.size)


def _fork(turn: Turn, blocks: Blocks) -> Turn:
    """Return a turn with its own randomness for blocks of one size; every block is a row in it."""
    return turn.fork(f"blocks of {blocks.size}")


def _join(messages: list[Message], cut: list[Blocks], d: int) -> Message:
    """Join the blocks' messages, [..., count, size] each, to one vector."""
    sparse = [(message, blocks) for message, blocks in zip(messages, cut, strict=True) if isinstance(message, Sparse)]
    if len(sparse) < len(messages):
        return Dense(_end_to_end([message.dense() for message in messages]))
    indices = [message.indices + _starts(blocks, message.indices.device) for message, blocks in sparse]
    return Sparse(_end_to_end(indices), _end_to_end([message.values for message, _ in sparse]), d)


def _end_to_end(parts: list[Tensor]) -> Tensor:
    """[..., count, size] each -> [..., m], concatenated; a view if there is only one."""
    flat = [part.flatten(-2) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat, -1)


def _starts(blocks: Blocks, device: torch.device) -> Tensor:
    """Return the start of each block: int64[count, 1]."""
    return blocks.start + blocks.size * torch.arange(blocks.count, device=device).unsqueeze(-1)
