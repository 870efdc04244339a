"""Members: a process group that torch.distributed does not know, with this process's rank in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch.distributed as dist

from gradwire.checks import is_whole


@dataclass(frozen=True)
class Members:
    """The ranks of a group that was not made by torch.distributed, such as torchft's. `Members()` is a single rank.

    gradwire cannot open a second group over such ranks, so it uses the group itself: do not use it for anything else
    while gradients or differences are exchanged.

    Args:
        group: has the methods of torch's ProcessGroup; None for a single rank.
        rank: this process's rank. torchft's groups do not know it; its manager does (`participating_rank`).
        size: number of ranks.

    Raises:
        ValueError: the rank is not from 0 to size - 1, or the group has another number of ranks.
    """

    group: dist.ProcessGroup | None = None
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not is_whole(self.size) or self.size < 1:
            raise ValueError(f"size must be a whole number of ranks, at least 1, got {self.size!r}")
        if not is_whole(self.rank) or not 0 <= self.rank < self.size:
            raise ValueError(f"rank must be a whole number from 0 to {self.size - 1}, got {self.rank!r}")
        there = 1 if self.group is None else self.group.size()
        if there != self.size:
            raise ValueError(f"the group has {there} ranks, and Members were given size={self.size}")


Ranks: TypeAlias = "dist.ProcessGroup | Members"
"""The ranks that take part: a group of torch.distributed's, or the members of another one."""
