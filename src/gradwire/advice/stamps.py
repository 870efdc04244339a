"""Time stamps of a training step, by the clock of the device that computes it.

On a CPU, work is done when its call returns. On a GPU it is queued: a stamp is an event in the stream, and the seconds
between two events are known once the later one has been reached. The path with events has not been run on a GPU yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Stamps(Protocol):
    """A clock: takes time stamps and returns the seconds between two of them."""

    def now(self) -> Any:
        """Take a time stamp."""
        ...

    def seconds(self, before: Any, after: Any) -> float:
        """Seconds from one time stamp to a later one; waits until the later one is reached."""
        ...


class Wall:
    """Time stamps of the host's wall clock."""

    def now(self) -> float:
        """Take a time stamp: seconds since an arbitrary origin."""
        return time.perf_counter()

    def seconds(self, before: float, after: float) -> float:
        """The difference of two time stamps."""
        return after - before


class Events:
    """Time stamps as events in the current stream. `make` creates an event, by default a timing torch.cuda.Event."""

    def __init__(self, make: Callable[[], Any] | None = None) -> None:
        self._make = make or (lambda: torch.cuda.Event(enable_timing=True))

    def now(self) -> Any:
        """Record an event behind all work queued so far."""
        event = self._make()
        event.record()
        return event

    def seconds(self, before: Any, after: Any) -> float:
        """Wait for the later event and return the seconds between the two."""
        after.synchronize()
        return float(before.elapsed_time(after)) / 1e3  # elapsed_time is in milliseconds


def stamps(device: torch.device) -> Stamps:
    """The time stamps for a device: events on CUDA, the wall clock elsewhere."""
    return Events() if device.type == "cuda" else Wall()
