"""Shards: what this rank holds of a tensor that is spread over a device mesh (torch's DTensor).

A plain tensor is its own shard. torch takes a second to import DTensor, so nothing here imports it: a process that has
not done so itself holds none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def as_dtensor(tensor: Tensor) -> DTensor | None:
    """The tensor itself if it is spread over a mesh."""
    known = sys.modules.get("torch.distributed.tensor")
    return cast("DTensor", tensor) if known is not None and isinstance(tensor, known.DTensor) else None


def shard(tensor: Tensor) -> Tensor:
    """This rank's values, detached: a view. Its size may be 0."""
    spread = as_dtensor(tensor.detach())
    return tensor.detach() if spread is None else spread.to_local()


def copies(tensor: Tensor) -> tuple[bool, ...]:
    """For every dimension of the tensor's mesh: do its ranks hold the same values? () for a plain tensor."""
    spread = as_dtensor(tensor)
    return () if spread is None else tuple(placement.is_replicate() for placement in spread.placements)


def part_of(tensors: Iterable[Tensor]) -> tuple[int, int]:
    """Which part of the tensors this rank holds, and of how many: its place in the largest mesh; (0, 1) without one."""
    meshes = [spread.device_mesh for spread in map(as_dtensor, tensors) if spread is not None]
    if not meshes:
        return 0, 1
    mesh = max(meshes, key=lambda each: each.size())
    index = 0
    for place, size in zip(mesh.get_coordinate() or (), mesh.shape, strict=True):
        index = index * size + place
    return index, mesh.size()
