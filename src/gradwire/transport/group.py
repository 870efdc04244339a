"""A process group of gradwire's own, and the comparisons by which its ranks agree before the first step."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from gradwire.ask import AllGather, Broadcast
from gradwire.layout import bytes_of
from gradwire.transport.opening import backend_of, group_of_some, timeout_of
from gradwire.transport.process import Process


def own_group(group: dist.ProcessGroup, device: torch.device) -> dist.ProcessGroup:
    """Open a second group over the same ranks, backend and timeout, which nobody else's collectives use.

    Raises:
        ValueError: the group has no backend for the device.
    """
    timeout = timeout_of(group, device)
    ranks, backend = dist.get_process_group_ranks(group), backend_of(group)
    if len(ranks) == dist.get_world_size():
        own = dist.new_group(ranks, timeout=timeout, backend=backend)
    else:
        own = group_of_some(ranks, backend, timeout, f"gradwire-{agreed_number(Process(group), device)}")
    if not isinstance(own, dist.ProcessGroup):
        raise RuntimeError("this rank is not a member of the model's process group")
    return own


def agreed_number(process: Process, device: torch.device) -> int:
    """Return rank 0's random 62-bit number on all ranks. Every rank calls it."""
    mine = torch.tensor([secrets.randbits(62)], device=device)
    return int(process.ask(Broadcast(mine, 0)).item())


def agree(process: Process, device: torch.device, contract: Mapping[str, str]) -> None:
    """Raise ValueError on every rank if the ranks' contracts differ, because the first step could hang.

    It takes one collective if they agree, and otherwise one more per term up to the first that differs.
    """
    terms = dict(contract) if compare(process, device, repr(dict(contract))) is not None else dict[str, str]()
    for what, mine in terms.items():
        if (other := compare(process, device, mine)) is not None:
            # All ranks get here: if any two ranks differ, every rank differs from some other one.
            theirs = gather_text(process, device, mine)[other]
            ranks = f"rank {process.rank} with {mine}, rank {other} with {theirs}"
            raise ValueError(f"the ranks attach with another {what}: {ranks}")
    process.ledger.clear()


def compare(process: Process, device: torch.device, words: str) -> int | None:
    """Return the lowest rank whose text differs from this rank's, or None. Every rank calls it."""
    digest = hashlib.blake2b(words.encode(), digest_size=16).digest()
    mine = torch.frombuffer(bytearray(digest), dtype=torch.uint8).to(device)
    gathered = process.ask(AllGather(mine))
    return next((rank for rank in range(process.size) if not torch.equal(gathered[rank], mine)), None)


def digest(tensors: Iterable[Tensor]) -> str:
    """Return a 16-byte digest of the tensors' values, in hexadecimal."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(bytes_of(tensor).numpy())  # pyright: ignore
    return found.hexdigest()


def gather_text(process: Process, device: torch.device, words: str) -> list[str]:
    """Return every rank's text, by rank. Every rank calls it."""
    encoded = bytearray(words.encode() + b".")  # never empty: `Process` does not send empty tensors
    mine = torch.frombuffer(encoded, dtype=torch.uint8).to(device)
    length = torch.tensor([len(mine)], dtype=torch.int64, device=device)
    gathered = process.ask(AllGather(length.view(torch.uint8))).view(torch.int64)
    lengths = cast(list[int], gathered.flatten().tolist())
    padded = mine.new_zeros(max(lengths))
    padded[: len(mine)] = mine
    rows = process.ask(AllGather(padded)).cpu()
    return [row[: count - 1].numpy().tobytes().decode() for row, count in zip(rows, lengths, strict=True)]
