"""A step as two lanes: the model computes in one, collectives run in the other, and both may compete for a core.

    compute   |----- forward, backward ------|            | the tail: what comes after the last mean
                     ^ gradients ready ^  ^               |
    network              | job | job      |    job        |

The network's lane runs jobs in order; each begins when its gradients are ready and the job before has ended. A job is a
sequence of parts. Each part computes for `cpu` seconds of a core and then waits for `wait` seconds without one. While
both lanes compute, each proceeds at `share` of its speed: 1 if each has a core, 1/2 if they share one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOMENT = 1e-12
"""Seconds of remaining computing that count as none."""


@dataclass(frozen=True)
class Part:
    """Seconds of computing, followed by seconds of waiting that need no core."""

    cpu: float
    wait: float


@dataclass(frozen=True)
class Job:
    """The communication of one unit or bucket; it can begin once the model has computed for `ready` seconds."""

    ready: float
    parts: tuple[Part, ...]


def step_seconds(compute: float, jobs: Sequence[Job], share: float = 1.0, tail: float = 0.0) -> float:
    """Seconds of a step: `compute` seconds of forward and backward with the jobs beside them, and then the tail.

    Raises:
        ValueError: `share` is not in (0, 1], or a job is ready only after more than `compute` seconds.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    if late := [job.ready for job in jobs if job.ready > compute + 1e-6]:
        raise ValueError(f"a job is ready after {late[0]:g} s of computing, in a step of {compute:g} s")
    clock = _Clock(compute, share)
    for job in jobs:
        clock.await_computed(min(job.ready, compute))
        for part in job.parts:
            clock.spend(part.cpu)
            clock.let_pass(part.wait)
    clock.let_pass(clock.left)
    return clock.now + tail


class _Clock:
    """The simulated time, and the seconds of the model's computing that are left."""

    def __init__(self, compute: float, share: float) -> None:
        self.now, self.compute, self.left, self.share = 0.0, compute, compute, share

    def await_computed(self, progress: float) -> None:
        """Advance until the model has computed for `progress` seconds."""
        self.let_pass(max(0.0, progress - (self.compute - self.left)))

    def let_pass(self, seconds: float) -> None:
        """Advance by so many seconds in which the network's lane needs no core."""
        if math.isinf(seconds):
            self.left = 0.0
        self.now += seconds
        self.left = max(0.0, self.left - seconds)

    def spend(self, cpu: float) -> None:
        """Advance until the network's lane has computed for `cpu` seconds of a core, while the model computes too."""
        beside = min(cpu / self.share, self.left / self.share)  # how long both lanes compute
        self.now += beside
        self.left = max(0.0, self.left - beside * self.share)
        if self.left <= MOMENT:
            self.now += max(0.0, cpu - beside * self.share)
