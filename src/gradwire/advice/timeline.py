"""A step as two lanes: the model computes in one, collectives go through the other, and both may want the same core.

    compute   |----- forward, backward ------|            | the tail: what comes after the last mean
                     ^ gradients ready ^  ^               |
    network              | job | job      |    job        |

The network's lane takes jobs in their order, each when its gradients are ready and the one before has ended. A job is a
row of parts. Each computes for `cpu` seconds of a core and then waits for `wait` seconds, which need no core. While
both lanes compute, each proceeds at `share` of its speed: 1 where there is a core for either, 1/2 where they have one
together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOMENT = 1e-12
"""Seconds beneath which something is over."""


@dataclass(frozen=True)
class Part:
    """Seconds that a core is needed, and seconds of waiting after that."""

    cpu: float
    wait: float


@dataclass(frozen=True)
class Job:
    """What can begin when the model has computed for `ready` seconds of its step."""

    ready: float
    parts: tuple[Part, ...]


def step_seconds(compute: float, jobs: Sequence[Job], share: float = 1.0, tail: float = 0.0) -> float:
    """Seconds of a step of `compute` seconds of forward and backward, the jobs beside it, and the tail after both.

    Raises:
        ValueError: the share is not in (0, 1], or a job waits for more than all of compute.
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
    """The time, and how much of the model's computing is left."""

    def __init__(self, compute: float, share: float) -> None:
        self.now, self.compute, self.left, self.share = 0.0, compute, compute, share

    def await_computed(self, progress: float) -> None:
        """Until the model has computed for so many seconds."""
        self.let_pass(max(0.0, progress - (self.compute - self.left)))

    def let_pass(self, seconds: float) -> None:
        """The network's lane needs no core meanwhile."""
        if math.isinf(seconds):
            self.left = 0.0
        self.now += seconds
        self.left = max(0.0, self.left - seconds)

    def spend(self, cpu: float) -> None:
        """Both lanes compute, until this one is done with so many seconds of a core."""
        beside = min(cpu / self.share, self.left / self.share)  # how long both want a core
        self.now += beside
        self.left = max(0.0, self.left - beside * self.share)
        if self.left <= MOMENT:
            self.now += max(0.0, cpu - beside * self.share)
