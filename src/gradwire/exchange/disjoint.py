"""Gather the indices that workers have found in disjoint parts of the vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from gradwire.ask import AllGather
from gradwire.wire import index

SLACK = 1.25
"""Messages have space for this many times the expected number of indices; at 1 %, an index has a quarter of the bytes
of its value."""


def expected_nbytes(dims: Sequence[int], counts: Sequence[float]) -> int:
    """Return the bytes of the longest index block if rank r finds SLACK * counts[r] indices below dims[r]."""
    wanted = (index.nbytes(d, min(d, math.ceil(SLACK * count))) for d, count in zip(dims, counts, strict=True))
    return max(wanted, default=0)


async def gather_indices(found: Tensor, counts: Sequence[int], dims: Sequence[int], rank: int) -> list[Tensor]:
    """Gather each rank r's indices inside its part: int64[counts[r]], increasing, below dims[r].

    It takes one AllGather of index blocks (wire/index.py), padded to the longest. `found` are the indices of this
    worker, whose rank is `rank`; `dims` are the sizes of all parts, which all workers know.

    Raises:
        ValueError: the counts do not fit the parts, or the bytes are not such indices.
    """
    if counts[rank] != len(found):
        raise ValueError(f"rank {rank} sent {len(found)} indices but announced {counts[rank]}")
    wire = index.encode(found, dims[rank])
    longest = max(index.nbytes(d, k) for d, k in zip(dims, counts, strict=True))
    return _decode(await AllGather(_padded(wire, longest)), counts, dims)


async def gather_found(found: Tensor, dims: Sequence[int], rank: int, nbytes: int) -> list[Tensor]:
    """Gather like `gather_indices`, without known counts: | count, 4 bytes | index block, up to `nbytes` bytes |.

    If a block is longer, a second AllGather sends the rest of all blocks, padded to the longest.
    """
    wire = index.encode(found, dims[rank])
    count = torch.tensor([len(found)], dtype=torch.int32, device=found.device).view(torch.uint8)
    gathered = await AllGather(torch.cat([count, _padded(wire[:nbytes], nbytes)]))
    counts = cast(list[int], gathered[:, :4].reshape(-1).view(torch.int32).tolist())
    rows, left = gathered[:, 4:], max(index.nbytes(d, k) for d, k in zip(dims, counts, strict=True)) - nbytes
    if left > 0:
        rows = torch.cat([rows, await AllGather(_padded(wire[nbytes:], left))], 1)
    return _decode(rows, counts, dims)


def _padded(wire: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(wire, (0, length - len(wire)))


def _decode(rows: Tensor, counts: Sequence[int], dims: Sequence[int]) -> list[Tensor]:
    """Index blocks u8[n, m], padded with zeros -> int64[counts[r]] of every rank."""
    return [
        index.decode(row[: index.nbytes(d, k)], d, k) for row, d, k in zip(rows.unbind(), dims, counts, strict=True)
    ]
