"""Spans of a vector, cut into chunks of one length, so that one launch takes them all; and what it takes to launch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 4096
"""Elements of a chunk, a power of two: what eight warps keep in registers."""


@dataclass(frozen=True)
class Chunks:
    """Where chunks lie: `owner` i64[count] and `table` i64[5, spans] are what loops.py says."""

    owner: Tensor
    table: Tensor
    lengths: Sequence[int]
    block: int

    @property
    def count(self) -> int:
        """How many there are: none of an empty span, and the last of another may be short."""
        return len(self.owner)

    @property
    def spans(self) -> int:
        """How many pieces were cut."""
        return len(self.lengths)

    @property
    def length(self) -> int:
        """Elements in all."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Elements of the longest span."""
        return max(self.lengths, default=0)

    def steps(self, most: int) -> int:
        """How many chunks of a span to take at a time, a power of two: few where no span has many."""
        return min(most, max(32, 1 << (self.longest // self.block).bit_length()))


def cut(spans: Sequence[tuple[int, int]], x: Tensor) -> Chunks:
    """Cut spans of x[d]; refuse those that do not lie in it."""
    if any(not 0 <= start <= end <= len(x) for start, end in spans):
        raise ValueError("a span does not fit the vector")
    lengths = [end - start for start, end in spans]
    stops = list(itertools.accumulate(-(-length // BLOCK) for length in lengths))
    bases = list(itertools.accumulate(lengths, initial=0))[:-1]
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    table = upload([starts, ends, [0, *stops][: len(spans)], stops, bases], x)
    count = stops[-1] if stops else 0
    owner = torch.repeat_interleave(table[3] - table[2], output_size=count)
    return Chunks(owner, table, lengths, BLOCK)


def upload(numbers: Sequence[int] | Sequence[Sequence[int]], x: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """Integers on x's device, without waiting for what the device is doing."""
    return torch.tensor(numbers, dtype=dtype).to(x.device, non_blocking=True)


def launch(loop: Any, programs: int, *given: Tensor | int | float, **constants: int | bool) -> None:
    """Start a loop in so many programs, of `num_warps` warps, beside the constants that it is compiled for."""
    if programs:
        loop[(programs,)](*given, **constants)
