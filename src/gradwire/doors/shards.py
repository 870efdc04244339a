"""Parameters of which a rank holds a part (DTensors), and the ranks of other islands that hold the same part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor. Asked without its module, which takes long to import."""
    return hasattr(tensor, "device_mesh")


def shard(tensor: Tensor) -> Tensor:
    """The part of a DTensor that lies on this rank, sharing its memory; any other tensor itself."""
    return cast(Any, tensor).to_local() if is_sharded(tensor) else tensor


def part(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """Which part of the model this rank holds, and of how many: its place in the tensors' mesh, and its size."""
    for tensor in filter(is_sharded, tensors):
        mesh = cast("DeviceMesh", cast(Any, tensor).device_mesh)
        return int((mesh.mesh == dist.get_rank()).flatten().nonzero()), mesh.size()
    return 0, 1


def ranks_of(group: dist.ProcessGroup | DeviceMesh | None) -> dist.ProcessGroup:
    """The process group of a one-dimensional mesh, a process group itself, or that of all ranks.

    Raises:
        TypeError: it is none of these.
        ValueError: a mesh of more dimensions, or this rank is not in the group.
    """
    found = group if group is not None else dist.GroupMember.WORLD
    if found is None or found is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("this rank belongs to no group to average over")
    if isinstance(found, dist.ProcessGroup):
        return found
    if not hasattr(found, "mesh_dim_names"):
        raise TypeError(f"group must be a process group or a one-dimensional mesh, got {type(found).__name__}")
    if found.ndim != 1:
        raise ValueError(f"group must be a one-dimensional mesh, such as mesh['replicate'], got {found}")
    return found.get_group()


def check_apart(named: Sequence[tuple[str, Tensor]], group: dist.ProcessGroup) -> None:
    """Refuse a group that holds other parts of a parameter than this rank's (ValueError)."""
    between = set(dist.get_process_group_ranks(group))
    for name, tensor in named:
        island = set(cast(Any, tensor).device_mesh.mesh.flatten().tolist()) if is_sharded(tensor) else set[int]()
        if len(island & between) > 1:
            raise ValueError(
                f"parameter {name!r} lies on ranks {sorted(island)}, of which group has {sorted(island & between)}: "
                "shard on a mesh dimension of its own, and give the ranks that hold the same part of it, such as "
                "group=mesh['replicate']"
            )


def reshard(model: nn.Module) -> None:
    """Let FSDP2 gather parameters anew: their shards have changed, and a forward pass may have left them gathered."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
