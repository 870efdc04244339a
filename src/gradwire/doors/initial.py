"""All ranks start from rank 0's parameters and buffers, as under DDP.

Of a tensor that is sharded over a mesh, each rank copies its own shard: rank 0 of the group holds the same shard.
"""

from __future__ import annotations

from torch import nn

from gradwire.ask import Broadcast
from gradwire.engine.shards import shard
from gradwire.transport.group import compare, digest
from gradwire.transport.process import Process


def broadcast_initial(model: nn.Module, process: Process) -> None:
    """Copy rank 0's parameters (or shards) and buffers to all ranks if any differ. Every rank calls it."""
    tensors = [shard(tensor) for tensor in (*model.parameters(), *model.buffers())]
    # If any two ranks differ, every rank differs from some other one, so all ranks take the same branch.
    if compare(process, tensors[0].device, digest(tensors)) is not None:
        for tensor in tensors:
            tensor.copy_(process.ask(Broadcast(tensor, 0)))
    process.ledger.clear()
