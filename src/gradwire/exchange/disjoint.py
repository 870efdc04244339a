"""Workers that search disjoint parts of the vector gather how many indices each has found, and which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from gradwire.ask import AllGather
from gradwire.wire import index

SLACK = 1.25
"""Room beyond what a worker is expected to find: at 1 % an index takes a quarter of what its value takes."""


def room(dims: Sequence[int], counts: Sequence[float]) -> int:
    """Bytes of the longest index block, if counts[r] indices or a quarter more are found among dims[r]."""
    wanted = (index.nbytes(d, min(d, math.ceil(SLACK * count))) for d, count in zip(dims, counts, strict=True))
    return max(wanted, default=0)


async def gather_indices(found: Tensor, counts: Sequence[int], dims: Sequence[int], rank: int) -> list[Tensor]:
    """The indices of each rank r inside its part: int64[counts[r]], increasing, below dims[r].

    One AllGather of an index block (wire/index.py), padded to the longest. `found` are the indices of this worker,
    whose rank is `rank`; dims are the sizes of all parts, which all workers know.

    Raises:
        ValueError: counts that the parts cannot have, or bytes that are no such indices.
    """
    if counts[rank] != len(found):
        raise ValueError(f"rank {rank} sent {len(found)} indices but announced {counts[rank]}")
    wire = index.encode(found, dims[rank])
    longest = max(index.nbytes(d, k) for d, k in zip(dims, counts, strict=True))
    return _decode(await AllGather(_padded(wire, longest)), counts, dims)


async def gather_found(found: Tensor, dims: Sequence[int], rank: int, room: int) -> list[Tensor]:
    """The same where no worker knows what the others have found: | count, 4 bytes | index block, up to `room` bytes |.

    If a block is longer, a second AllGather brings what is left of all, padded to the longest.
    """
    wire = index.encode(found, dims[rank])
    count = torch.tensor([len(found)], dtype=torch.int32, device=found.device).view(torch.uint8)
    gathered = await AllGather(torch.cat([count, _padded(wire[:room], room)]))
    counts = cast(list[int], gathered[:, :4].reshape(-1).view(torch.int32).tolist())
    rows, left = gathered[:, 4:], max(index.nbytes(d, k) for d, k in zip(dims, counts, strict=True)) - room
    if left > 0:
        rows = torch.cat([rows, await AllGather(_padded(wire[room:], left))], 1)
    return _decode(rows, counts, dims)


def _padded(wire: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(wire, (0, length - len(wire)))


def _decode(rows: Tensor, counts: Sequence[int], dims: Sequence[int]) -> list[Tensor]:
    """u8[n, m] of index blocks, each with zeros behind it -> int64[counts[r]] of every rank."""
    return [
        index.decode(row[: index.nbytes(d, k)], d, k) for row, d, k in zip(rows.unbind(), dims, counts, strict=True)
    ]
