"""A clock of training time."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Seconds of training, without pauses for evaluations."""

    started: float = field(default_factory=time.perf_counter)
    paused: float = 0.0

    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.started - self.paused

    @contextmanager
    def pause(self) -> Generator[None]:
        """Stop the clock during the block."""
        began = time.perf_counter()
        yield
        self.paused += time.perf_counter() - began
