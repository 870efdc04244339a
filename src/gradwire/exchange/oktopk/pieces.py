"""Ok-Topk's message: rows of the same number of places and values, some of them only there to fill the row.

Wire of a row of `width` entries with places below `span`, the width known to both ends beforehand:
    | index block of `width` places below span + width (wire/index.py) | value block (wire/values.py) |
Entries that fill a row come last: places span, span + 1, ... and value 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gradwire.ask import AllGather
from gradwire.wire import index, values
from gradwire.wire.values import Format


@dataclass(frozen=True)
class Pieces:
    """The format of rows. `kind` is the values' dtype, float32 or float64."""

    width: int
    span: int
    kind: torch.dtype

    def encode(self, places: Tensor, said: Tensor, counts: Sequence[int]) -> Tensor:
        """int64[m], f[m] -> u8[n, nbytes]: the first counts[0] entries into row 0, and so on; increasing in a row."""
        n, device = len(counts), places.device
        lengths = torch.tensor(counts, device=device)
        row = torch.repeat_interleave(lengths)
        column = torch.arange(len(places), device=device) - (lengths.cumsum(0) - lengths)[row]
        filled = torch.arange(self.span, self.span + self.width, device=device).repeat(n, 1)
        filled[row, column] = places
        numbers = said.new_zeros(n, self.width)
        numbers[row, column] = said
        block = values.encode(numbers, self._format)
        return torch.cat([index.encode(filled, self.span + self.width), block], -1)

    def decode(self, wires: Tensor) -> tuple[Tensor, Tensor]:
        """u8[n, nbytes] -> int64[n, width], f[n, width]; a place of `span` or more fills the row."""
        split = index.nbytes(self.span + self.width, self.width)
        places = index.decode(wires[:, :split], self.span + self.width, self.width)
        return places, values.decode(wires[:, split:], self._format, self.width)

    def read(self, wires: Tensor, starts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """u8[n, nbytes] -> int64[m], f[m]: all rows one after the other, row r's places counted from starts[r]."""
        places, said = self.decode(wires)
        real = places < self.span
        origin = torch.tensor(starts, device=places.device).unsqueeze(1)
        return (places + origin)[real], said[real]

    @property
    def _format(self) -> Format:
        return cast(Format, str(self.kind).removeprefix("torch."))


async def hear(pair: tuple[int, int], device: torch.device) -> list[tuple[int, int]]:
    """Gather two whole numbers of every worker, 8 bytes."""
    wires = await AllGather(torch.tensor(pair, dtype=torch.int32, device=device).view(torch.uint8))
    return [(first, second) for first, second in cast(list[list[int]], wires.view(torch.int32).tolist())]
