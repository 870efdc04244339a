"""Workers that search disjoint parts: tell everybody how many places one has found, then which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from gradwire.ask import AllGather
from gradwire.wire import index


async def hear_counts(found: Tensor) -> list[int]:
    """Tell everybody how many places one has found, and hear theirs, by rank: one AllGather of 4 bytes."""
    count = torch.tensor([len(found)], dtype=torch.int32, device=found.device)
    heard = await AllGather(count.view(torch.uint8))
    return cast(list[int], heard.view(torch.int32).flatten().tolist())


async def gather(found: Tensor, counts: Sequence[int], dims: Sequence[int], mine: int) -> list[Tensor]:
    """Tell one's places and hear everybody's: int64[counts[rank]], increasing, below dims[rank], for every rank.

    One AllGather of an index block (wire/index.py) relative to one's own part, padded to the longest. `mine` is one's
    rank; every rank knows the size of every rank's part, dims.
    """
    lengths = [index.nbytes(d, k) for d, k in zip(dims, counts, strict=True)]
    wire = index.encode(found, dims[mine])
    wires = await AllGather(torch.nn.functional.pad(wire, (0, max(lengths) - len(wire))))
    return [
        index.decode(wires[rank, :length], d, k)
        for rank, (length, d, k) in enumerate(zip(lengths, dims, counts, strict=True))
    ]
