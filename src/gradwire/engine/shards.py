"""Shards: this rank's part of a tensor that is distributed over a device mesh (torch's DTensor).

A plain tensor is its own shard. Importing DTensor takes a second, so this module does not: a process that has not
imported it has no DTensor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def as_dtensor(tensor: Tensor) -> DTensor | None:
    """Return the tensor if it is a DTensor, else None."""
    known = sys.modules.get("torch.distributed.tensor")
    return cast("DTensor", tensor) if known is not None and isinstance(tensor, known.DTensor) else None


def shard(tensor: Tensor) -> Tensor:
    """Return a detached view of this rank's values. Its size may be 0."""
    spread = as_dtensor(tensor.detach())
    return tensor.detach() if spread is None else spread.to_local()


def copies(tensor: Tensor) -> tuple[bool, ...]:
    """Return, per dimension of the tensor's mesh, whether it replicates the values; () for a plain tensor."""
    spread = as_dtensor(tensor)
    return () if spread is None else tuple(placement.is_replicate() for placement in spread.placements)


def part_of(tensors: Iterable[Tensor]) -> tuple[int, int]:
    """Return (index, count): this rank's position in the tensors' largest mesh, and its size; (0, 1) without a mesh."""
    meshes = [spread.device_mesh for spread in map(as_dtensor, tensors) if spread is not None]
    if not meshes:
        return 0, 1
    mesh = max(meshes, key=lambda each: each.size())
    index = 0
    for place, size in zip(mesh.get_coordinate() or (), mesh.shape, strict=True):
        index = index * size + place
    return index, mesh.size()
