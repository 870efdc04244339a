"""The ranks that a door averages over: what `group` may be, and which groups fit a sharded model."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TypeAlias, cast

import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh

from gradwire.engine.shards import as_dtensor
from gradwire.transport.members import Members, Ranks

Group: TypeAlias = "dist.ProcessGroup | DeviceMesh | Members"
"""The types of a door's argument `group`."""


def as_group(group: Group | None, door: str) -> Ranks:
    """Return the process group of a door's argument `group`, or its `Members`; the default group for None.

    Raises:
        RuntimeError: torch.distributed has no process group yet.
        ValueError: a mesh of several dimensions, a group without this rank, or one that torch.distributed does not
            know.
        TypeError: anything else.
    """
    if isinstance(group, Members):
        return group
    if not dist.is_initialized():
        raise RuntimeError(f"{door} averages over a process group: call torch.distributed.init_process_group first")
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise ValueError(
                "group must be a mesh of one dimension, such as mesh['replicate'], got one of "
                f"{group.ndim} dimensions: {group.mesh_dim_names or tuple(group.shape)}"
            )
        return group.get_group()
    found = cast(object, dist.GroupMember.WORLD if group is None else group)
    if found is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("this rank belongs to no group to average over")
    if not hasattr(found, "allreduce"):
        raise TypeError(f"group must be a process group or a one-dimensional mesh, got {found!r}")
    if not isinstance(found, dist.ProcessGroup) or found not in _known():
        raise ValueError(
            f"torch.distributed does not know this {type(found).__name__}; give gradwire.Members(group, rank, size)"
        )
    return found


def _known() -> Container[dist.ProcessGroup]:
    """Return the groups that torch.distributed knows. torch has no public way to list them."""
    return distributed_c10d._world.pg_map  # pyright: ignore[reportPrivateUsage]


def check_shards(named: Iterable[tuple[str, Tensor]], group: Ranks) -> None:
    """Refuse a group that holds several ranks of the mesh over which a tensor is sharded (ValueError)."""
    if isinstance(group, Members):  # its ranks are other programs', which are not on the mesh
        return
    members = dist.get_process_group_ranks(group)
    for name, tensor in named:
        if (spread := as_dtensor(tensor)) is None:
            continue
        mesh = spread.device_mesh.mesh
        places = {rank: cast(list[list[int]], (mesh == rank).nonzero().tolist()) for rank in members}
        inside = {rank: place[0] for rank, place in places.items() if place}
        if len(inside) < 2:
            continue
        varying = [len(set(along)) > 1 for along in zip(*inside.values(), strict=True)]
        if all(place.is_replicate() for place, varies in zip(spread.placements, varying, strict=True) if varies):
            raise ValueError(
                f"the gradient of {name!r} is averaged over ranks {sorted(inside)} already, by the mesh it lies on; "
                "shard the model on the shard dimension only, as in fully_shard(model, mesh=mesh['shard'])"
            )
        raise ValueError(
            f"ranks {sorted(inside)} of the group hold different parts of {name!r}; give a group of ranks that hold "
            "the same part, such as mesh['replicate']"
        )
