"""All ranks start from rank 0's parameters and buffers, as under DDP.

Of what is spread over a mesh a rank has, and gets, its own part: rank 0 of the group holds the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gradwire.ask import Broadcast
from gradwire.engine.shards import shard
from gradwire.transport.group import compare
from gradwire.transport.process import Process


def start_alike(model: nn.Module, process: Process) -> None:
    """Copy rank 0's parameters, or its parts of them, and buffers to all ranks if they differ. Every rank calls it."""
    tensors = [shard(tensor) for tensor in (*model.parameters(), *model.buffers())]
    # If any two ranks differ, every rank differs from some other, and all go the same way.
    if compare(process, tensors[0].device, digest(tensors)) is not None:
        for tensor in tensors:
            tensor.copy_(process.run(_broadcast(tensor)))
    process.ledger.clear()


def digest(tensors: Iterable[Tensor]) -> str:
    """Sixteen bytes, as text, that tell these values from any others."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())  # pyright: ignore
    return found.hexdigest()


async def _broadcast(x: Tensor) -> Tensor:
    return await Broadcast(x, 0)
