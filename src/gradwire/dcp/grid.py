"""Where a memory lies: every worker's is a row, and a row is cut as its parameter is.

a plain parameter              f[n, *shape], Shard(0) over the n workers
a DTensor, Shard(k) on a mesh  f[n, *shape], Shard(0) over the workers, Shard(k + 1) over the mesh
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Placement,
    Replicate,
    Shard,
    zeros,  # pyright: ignore[reportUnknownVariableType]
)

from gradwire.transport.group import gather_text
from gradwire.transport.process import Process


class Grid:
    """The workers of a hook, and where their parameters' own meshes put shards. Every rank makes it.

    Args:
        process: the workers, between two exchanges.
        parameters: by name; those that are not DTensors may be left out.
        device: where the memories are.

    Raises:
        ValueError: the hook is closed, or its ranks are Members.
    """

    def __init__(self, process: Process, parameters: Mapping[str, Tensor], device: torch.device) -> None:
        if process.group is None:
            raise ValueError("this hook is closed, or its rank is alone: no mesh can be made of its group")
        self.device, self._group = device, process.group
        try:
            self._workers = DeviceMesh.from_group(process.group, device.type)
        except KeyError as error:  # Members
            raise ValueError("torch.distributed does not know this hook's group: no mesh can be made of it") from error
        self._spread = {name: param for name, param in parameters.items() if isinstance(param, DTensor)}
        own = dict.fromkeys(param.device_mesh for param in self._spread.values())
        self._meshes = {mesh: self._of_islands(process, mesh) for mesh in own}

    def rows(self, name: str, local: Tensor) -> Tensor:
        """This worker's row among all."""
        shape = (self._workers.size(), *self._shape(name, local))
        return self._laid(name, Shard(0), local.to(self.device)[None], shape)

    def alike(self, name: str, local: Tensor) -> Tensor:
        """What all workers hold alike."""
        return self._laid(name, Replicate(), local, self._shape(name, local))

    def room(self, name: str, like: Tensor, n: int) -> Tensor:
        """Zeros for the rows of `n` workers, dealt out over those that there are."""
        mesh, placements = self._place(name, Shard(0))
        return zeros(n, *self._shape(name, like), dtype=like.dtype, device_mesh=mesh, placements=placements)

    def _of_islands(self, process: Process, mesh: DeviceMesh) -> DeviceMesh:
        """The mesh of every island, one after the other: its first dimension is the workers."""
        ranks = [json.loads(words) for words in gather_text(process, self.device, json.dumps(mesh.mesh.tolist()))]
        names = ("workers", *(f"own{dimension}" for dimension in range(mesh.ndim)))
        groups = [self._group, *mesh.get_all_groups()]
        return DeviceMesh.from_group(groups, self.device.type, torch.tensor(ranks), mesh_dim_names=names)

    def _shape(self, name: str, local: Tensor) -> tuple[int, ...]:
        """The shape of the whole tensor; this rank has a part of it."""
        return tuple(self._spread[name].shape) if name in self._spread else tuple(local.shape)

    def _place(self, name: str, workers: Placement) -> tuple[DeviceMesh, list[Placement]]:
        if name not in self._spread:
            return self._workers, [workers]
        param, ahead = self._spread[name], int(isinstance(workers, Shard))
        return self._meshes[param.device_mesh], [workers, *(_behind(name, each, ahead) for each in param.placements)]

    def _laid(self, name: str, workers: Placement, local: Tensor, shape: tuple[int, ...]) -> Tensor:
        mesh, placements = self._place(name, workers)
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(local, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


def _behind(name: str, placement: Placement, ahead: int) -> Placement:
    """A parameter's placement where its tensor has so many dimensions more in front (ValueError)."""
    if type(placement) is Shard:
        return Shard(placement.dim + ahead)
    if type(placement) is Replicate:
        return placement
    raise ValueError(f"a distributed checkpoint deals out Shard and Replicate; {name!r} is placed as {placement}")
