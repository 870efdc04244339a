"""Ok-Topk's message: rows of indices and values, padded to one length.

Wire of a row of `width` entries with indices below `span`; both ends know the width beforehand:
    | index block of `width` indices below span + width (wire/index.py) | value block (wire/values.py) |
Padding comes last: indices span, span + 1, ... with value 0.
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
    """The format of rows: `width` entries with indices below `span`, and values in `dtype`, float32 or float64."""

    width: int
    span: int
    dtype: torch.dtype

    def encode(self, indices: Tensor, entries: Tensor, counts: Sequence[int]) -> Tensor:
        """int64[m], f[m] -> u8[n, nbytes]: the first counts[0] entries make row 0, and so on.

        Indices must increase within a row.
        """
        n, device = len(counts), indices.device
        lengths = torch.tensor(counts, device=device)
        row = torch.repeat_interleave(lengths)
        column = torch.arange(len(indices), device=device) - (lengths.cumsum(0) - lengths)[row]
        filled = torch.arange(self.span, self.span + self.width, device=device).repeat(n, 1)
        filled[row, column] = indices
        numbers = entries.new_zeros(n, self.width)
        numbers[row, column] = entries
        block = values.encode(numbers, self._format)
        return torch.cat([index.encode(filled, self.span + self.width), block], -1)

    def decode(self, wires: Tensor) -> tuple[Tensor, Tensor]:
        """u8[n, nbytes] -> int64[n, width], f[n, width]; an index of `span` or more is padding."""
        split = index.nbytes(self.span + self.width, self.width)
        indices = index.decode(wires[:, :split], self.span + self.width, self.width)
        return indices, values.decode(wires[:, split:], self._format, self.width)

    def read(self, wires: Tensor, starts: Sequence[int], d: int) -> tuple[Tensor, Tensor]:
        """u8[n, nbytes] -> int64[m], f[m]: all rows without padding; starts[r] is added to the indices of row r.

        Raises:
            ValueError: an index is d or larger.
        """
        indices, entries = self.decode(wires)
        real = indices < self.span
        found = (indices + torch.tensor(starts, device=indices.device).unsqueeze(1))[real]
        if len(found) and int(found.max()) >= d:
            raise ValueError(f"oktopk: a worker has sent index {int(found.max())} of a vector of {d}")
        return found, entries[real]

    @property
    def _format(self) -> Format:
        return cast(Format, str(self.dtype).removeprefix("torch."))


async def gather_counts(pair: tuple[int, int], d: int, rank: int, device: torch.device) -> list[tuple[int, int]]:
    """Gather two counts from every worker, 8 bytes each.

    Raises:
        ValueError: a count is below 0 or above d, or the counts received from this worker, `rank`, are not its own.
    """
    wires = await AllGather(torch.tensor(pair, dtype=torch.int32, device=device).view(torch.uint8))
    pairs = cast(list[list[int]], wires.view(torch.int32).tolist())
    if wrong := [count for counts in pairs for count in counts if not 0 <= count <= d]:
        raise ValueError(f"oktopk: a worker counts {wrong[0]} values of a vector of {d}")
    if pairs[rank] != list(pair):
        raise ValueError(f"oktopk: rank {rank} counts {pair} but announced {tuple(pairs[rank])}")
    return [(first, second) for first, second in pairs]
