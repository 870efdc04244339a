"""Spans of a vector cut into chunks of equal length, so that one launch covers them all; uploads and launches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 4096
"""Elements of a chunk, a power of two: as many as eight warps keep in registers."""


@dataclass(frozen=True)
class Chunks:
    """The places of chunks. owner i64[count], table i64[5, spans]: as described in loops.py. lengths: of the spans."""

    owner: Tensor
    table: Tensor
    lengths: Sequence[int]
    block: int

    @property
    def count(self) -> int:
        """The number of chunks. An empty span has none; the last chunk of a span may be shorter."""
        return len(self.owner)

    @property
    def spans(self) -> int:
        """The number of spans."""
        return len(self.lengths)

    @property
    def length(self) -> int:
        """The number of elements of all spans."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """The number of elements of the longest span."""
        return max(self.lengths, default=0)

    def steps(self, most: int) -> int:
        """The number of chunks of a span to process at a time, a power of two up to `most`; small for short spans."""
        return min(most, max(32, 1 << (self.longest // self.block).bit_length()))


def cut(spans: Sequence[tuple[int, int]], x: Tensor) -> Chunks:
    """Cut spans of x[d] into chunks; ValueError if a span does not lie in x."""
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
    """Copy integers to x's device without waiting for the device."""
    return torch.tensor(numbers, dtype=dtype).to(x.device, non_blocking=True)


def launch(loop: Any, programs: int, *given: Tensor | int | float, **constants: int | bool) -> None:
    """Launch a Triton loop with so many programs; `constants` are its compile-time constants and launch options."""
    if programs:
        loop[(programs,)](*given, **constants)
