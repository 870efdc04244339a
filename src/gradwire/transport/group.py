"""A process group of one's own, and what its ranks must agree about before they rely on each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from gradwire.ask import AllGather
from gradwire.transport.process import Process


def own_group(group: dist.ProcessGroup, device: torch.device) -> dist.ProcessGroup:
    """Open a second group over the same ranks with the same backend and timeout: nobody else's calls come between.

    Raises:
        ValueError: the ranks of a part of the world belong to different numbers of groups, for torch names the new
            group by that number and its ranks would wait for each other under different names.
    """
    timeout: timedelta = group._get_backend(device).options._timeout  # there is no public way to ask
    ranks = dist.get_process_group_ranks(group)
    everybody = len(ranks) == dist.get_world_size()
    known = len(distributed_c10d._world.pg_names)  # pyright: ignore[reportPrivateUsage]
    if not everybody and compare(Process(group), device, repr(known)) is not None:
        raise ValueError(
            f"the ranks {ranks} belong to different numbers of process groups (rank {dist.get_rank()} to {known}); "
            "make every group on all ranks, as torch.distributed.new_group asks for"
        )
    own = dist.new_group(
        ranks,
        timeout=timeout,
        backend=dist.get_backend_config(group),
        # Ranks outside the model's group know nothing of it and cannot take part.
        use_local_synchronization=not everybody,
    )
    if not isinstance(own, dist.ProcessGroup):
        raise RuntimeError("this rank is not a member of the model's process group")
    return own


def agree(process: Process, device: torch.device, contract: Mapping[str, str]) -> None:
    """Refuse ranks that attach different things (ValueError on every rank), before the first step could hang."""
    for what, mine in contract.items():
        if (other := compare(process, device, mine)) is not None:
            raise ValueError(f"the ranks attach with another {what}: rank {process.rank} with {mine}, rank {other} not")
    process.ledger.clear()


def compare(process: Process, device: torch.device, words: str) -> int | None:
    """Tell the lowest rank whose words differ from this rank's, if there is one. Every rank calls it."""
    digest = hashlib.blake2b(words.encode(), digest_size=16).digest()
    mine = torch.frombuffer(bytearray(digest), dtype=torch.uint8).to(device)
    gathered = process.run(_gather(mine))
    return next((rank for rank in range(process.size) if not torch.equal(gathered[rank], mine)), None)


def digest(tensors: Iterable[Tensor]) -> str:
    """Sixteen bytes, as text, that tell these values from any others."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())  # pyright: ignore
    return found.hexdigest()


async def _gather(wire: Tensor) -> Tensor:
    return await AllGather(wire)
