"""All ranks: run a function that may fail on some ranks, and raise on all ranks if it does.

    every rank acts -> the ranks gather their errors -> all continue, or all raise

A rank that raised alone would leave the others waiting for it in the next collective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from gradwire.transport.group import gather_text
from gradwire.transport.process import Process

T = TypeVar("T")


class AllRanks:
    """The ranks of a group. Its collectives run in the caller's thread, on the group itself.

    Args:
        group: the ranks; the default group if None, or this process alone if torch.distributed is not initialised.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        world = dist.GroupMember.WORLD if dist.is_initialized() else None
        self._group = world if group is None else group
        self._process = None if self._group is None else Process(self._group)
        self.rank, self.size = (0, 1) if self._process is None else (self._process.rank, self._process.size)

    def gather_text(self, words: str) -> list[str]:
        """Return every rank's text, by rank. Every rank calls it."""
        if self._process is None or self._group is None:
            return [words]
        return gather_text(self._process, _device(self._group), words)

    def do(self, act: Callable[[], T]) -> T:
        """Call `act` on every rank and return this rank's result. Every rank calls it.

        Raises:
            ValueError: `act` has raised on some rank. Its text is this rank's own error, else the first other rank's.
        """
        try:
            done, failure = act(), None
        except Exception as error:  # of any kind, because the other ranks wait for this rank's text
            done, failure = None, error
        texts = self.gather_text("" if failure is None else f"{failure or type(failure).__name__}")
        failed = next((rank for rank, text in enumerate(texts) if text), None)
        if failure is not None:
            raise ValueError(texts[self.rank]) from failure
        if failed is not None:
            raise ValueError(f"rank {failed}: {texts[failed]}")
        return done  # type: ignore[return-value]  # nothing has failed: it is what act returned


def _device(group: dist.ProcessGroup) -> torch.device:
    """Return the device for this group's messages: the CPU if the group has a backend for it, else the accelerator."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or "cpu:" in dist.get_backend_config(group):
        return torch.device("cpu")
    return torch.device(accelerator.type, torch.accelerator.current_device_index())
