"""Everyone: all ranks do something that may fail on one of them, and all learn of it.

    every rank acts -> every rank tells the others how it went -> all go on, or all raise

A rank that raised alone would leave the others waiting for it in the next collective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from gradwire.transport.group import tell
from gradwire.transport.process import Process

T = TypeVar("T")


class Everyone:
    """The ranks of a group, in the caller's thread, on the group itself.

    Args:
        group: the ranks; the whole world if None, and without torch.distributed this process alone.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        world = dist.GroupMember.WORLD if dist.is_initialized() else None
        self._group = world if group is None else group
        self._process = None if self._group is None else Process(self._group)
        self.rank, self.size = (0, 1) if self._process is None else (self._process.rank, self._process.size)

    def tell(self, words: str) -> list[str]:
        """Every rank's words, by rank. Every rank calls it."""
        if self._process is None or self._group is None:
            return [words]
        return tell(self._process, _device(self._group), words)

    def do(self, act: Callable[[], T]) -> T:
        """Act on every rank; what it returned here. Every rank calls it.

        Raises:
            ValueError: on every rank, if `act` has raised on any: this rank's own sentence, else the first other's.
        """
        try:
            done, failure = act(), None
        except Exception as error:  # whatever it is: the others wait for this rank's word
            done, failure = None, error
        told = self.tell("" if failure is None else f"{failure or type(failure).__name__}")
        failed = next((rank for rank, words in enumerate(told) if words), None)
        if failure is not None:
            raise ValueError(told[self.rank]) from failure
        if failed is not None:
            raise ValueError(f"rank {failed}: {told[failed]}")
        return done  # type: ignore[return-value]  # nothing has failed: it is what act returned


def _device(group: dist.ProcessGroup) -> torch.device:
    """Where this group's messages lie: the CPU, if it has a backend for it."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or "cpu:" in dist.get_backend_config(group):
        return torch.device("cpu")
    return torch.device(accelerator.type, torch.accelerator.current_device_index())
