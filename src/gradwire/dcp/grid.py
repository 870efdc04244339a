"""The placement of memories as DTensors: every worker's memory is a row, and rows are sharded as their parameter is.

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
    """The device meshes of a hook's workers and of its parameters' shards. Every rank makes one.

    Args:
        process: the hook's transport, between two exchanges.
        parameters: the parameters by name; those that are not DTensors may be left out.
        device: the device of the memories.

    Raises:
        ValueError: the hook is closed, or its group is one of `Members`.
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
        """Return a DTensor of all workers' rows, of which this worker's is `local`."""
        shape = (self._workers.size(), *self._shape(name, local))
        return self._dtensor(name, Shard(0), local.to(self.device)[None], shape)

    def replicated(self, name: str, local: Tensor) -> Tensor:
        """Return a DTensor of a tensor that is the same on all workers."""
        return self._dtensor(name, Replicate(), local, self._shape(name, local))

    def zero_rows(self, name: str, like: Tensor, n: int) -> Tensor:
        """Return a DTensor of zeros for the rows of `n` workers, sharded over the present workers."""
        mesh, placements = self._place(name, Shard(0))
        return zeros(n, *self._shape(name, like), dtype=like.dtype, device_mesh=mesh, placements=placements)

    def _of_islands(self, process: Process, mesh: DeviceMesh) -> DeviceMesh:
        """Stack the islands' meshes to one mesh, whose first dimension is the workers."""
        ranks = [json.loads(words) for words in gather_text(process, self.device, json.dumps(mesh.mesh.tolist()))]
        names = ("workers", *(f"own{dimension}" for dimension in range(mesh.ndim)))
        groups = [self._group, *mesh.get_all_groups()]
        return DeviceMesh.from_group(groups, self.device.type, torch.tensor(ranks), mesh_dim_names=names)

    def _shape(self, name: str, local: Tensor) -> tuple[int, ...]:
        """Return the shape of the whole tensor, of which this rank may hold a shard."""
        return tuple(self._spread[name].shape) if name in self._spread else tuple(local.shape)

    def _place(self, name: str, workers: Placement) -> tuple[DeviceMesh, list[Placement]]:
        if name not in self._spread:
            return self._workers, [workers]
        param, ahead = self._spread[name], int(isinstance(workers, Shard))
        return self._meshes[param.device_mesh], [workers, *(_shifted(name, each, ahead) for each in param.placements)]

    def _dtensor(self, name: str, workers: Placement, local: Tensor, shape: tuple[int, ...]) -> Tensor:
        mesh, placements = self._place(name, workers)
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(local, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


def _shifted(name: str, placement: Placement, ahead: int) -> Placement:
    """Return a parameter's placement for a tensor with `ahead` more dimensions in front (ValueError)."""
    if type(placement) is Shard:
        return Shard(placement.dim + ahead)
    if type(placement) is Replicate:
        return placement
    raise ValueError(f"a distributed checkpoint deals out Shard and Replicate; {name!r} is placed as {placement}")
