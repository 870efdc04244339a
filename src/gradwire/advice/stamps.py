"""Stamps: moments of a training step, by the clock of whatever computes it.

A CPU's work is done when its call returns. A GPU's is queued: a moment there is an event in the stream, and the seconds
between two events are known once the later one has been reached. The path by events has not been run on a GPU yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Stamps(Protocol):
    """Takes moments, and tells the seconds between two."""

    def now(self) -> Any:
        """This moment of the step."""
        ...

    def seconds(self, before: Any, after: Any) -> float:
        """Seconds from one moment to a later one; waits until it is there."""
        ...


class Wall:
    """The clock on the wall."""

    def now(self) -> float:
        """Seconds of a clock that only differences mean something of."""
        return time.perf_counter()

    def seconds(self, before: float, after: float) -> float:
        """Their difference."""
        return after - before


class Events:
    """Events in the current stream; `make` makes one, a torch.cuda.Event that keeps the time if left out."""

    def __init__(self, make: Callable[[], Any] | None = None) -> None:
        self._make = make or (lambda: torch.cuda.Event(enable_timing=True))

    def now(self) -> Any:
        """An event behind all work that has been queued so far."""
        event = self._make()
        event.record()
        return event

    def seconds(self, before: Any, after: Any) -> float:
        """The events' own time, which is in milliseconds."""
        after.synchronize()
        return float(before.elapsed_time(after)) / 1e3


def stamps(device: torch.device) -> Stamps:
    """What takes moments of a step on a device."""
    return Events() if device.type == "cuda" else Wall()
