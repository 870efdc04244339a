"""Workers that search disjoint parts of the vector gather how many indices each has found, then which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from gradwire.ask import AllGather
from gradwire.wire import index


async def gather_counts(found: Tensor) -> list[int]:
    """How many indices each rank has found: one AllGather of 4 bytes."""
    count = torch.tensor([len(found)], dtype=torch.int32, device=found.device)
    counts = await AllGather(count.view(torch.uint8))
    return cast(list[int], counts.view(torch.int32).flatten().tolist())


async def gather_indices(found: Tensor, counts: Sequence[int], dims: Sequence[int], rank: int) -> list[Tensor]:
    """The indices of each rank r inside its part: int64[counts[r]], increasing, below dims[r].

    One AllGather of an index block (wire/index.py), padded to the longest. `found` are the indices of this worker,
    whose rank is `rank`; dims are the sizes of all parts, which all workers know.

    Raises:
        ValueError: counts that the parts cannot have, or bytes that are no such indices.
    """
    if counts[rank] != len(found):
        raise ValueError(f"rank {rank} has found {len(found)} indices, and is said to have found {counts[rank]}")
    lengths = [index.nbytes(d, k) for d, k in zip(dims, counts, strict=True)]
    wire = index.encode(found, dims[rank])
    wires = await AllGather(torch.nn.functional.pad(wire, (0, max(lengths) - len(wire))))
    return [
        index.decode(wires[r, :length], d, k)
        for r, (length, d, k) in enumerate(zip(lengths, dims, counts, strict=True))
    ]
