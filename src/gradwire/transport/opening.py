"""Opening a process group over some ranks, under a name that those ranks choose."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d


def backend_of(group: dist.ProcessGroup) -> str:
    """Return a group's backend, by one name if that implies all its backends.

    torch warns whenever a group with several explicit backends is destroyed.
    """
    name, every = dist.get_backend(group), dist.get_backend_config(group)
    known = name in distributed_c10d.Backend.backend_list
    stands = known and str(distributed_c10d.BackendConfig(dist.Backend(name))) == every  # pyright: ignore
    return name if stands else every


def timeout_of(group: dist.ProcessGroup, device: torch.device) -> timedelta:
    """Return the timeout of the group's backend for this device (ValueError: there is no such backend)."""
    try:
        return group._get_backend(device).options._timeout  # there is no public way to ask
    except RuntimeError as error:
        raise ValueError(
            f"the parameters are on {device.type}, and the process group has no backend for such tensors, only "
            f"{dist.get_backend_config(group)}"
        ) from error


def group_of_some(ranks: list[int], backend: str, timeout: timedelta, name: str) -> Any:
    """Open a group as `new_group(use_local_synchronization=True)` does, but under the given name.

    torch names such a group by its ranks and by the number of groups a rank belongs to. Ranks that belong to different
    numbers of groups, because some joined later, would wait for each other under different names. And a group that is
    opened after another one of the same name would find the addresses of that one in the store.
    """
    place, store = ranks.index(dist.get_rank()), distributed_c10d._get_default_store()  # pyright: ignore
    make = cast(Any, distributed_c10d._new_process_group_helper)  # pyright: ignore
    own, _ = make(len(ranks), place, ranks, dist.Backend(backend), store, name, timeout=timeout)
    world = distributed_c10d._world  # pyright: ignore[reportPrivateUsage]
    world.pg_group_ranks[own] = {rank: number for number, rank in enumerate(ranks)}
    return own
