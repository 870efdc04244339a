"""Run a job on real ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gradwire.lab import remote
from gradwire.lab.comparison.job import Pulse, Started, TrainingJob
from gradwire.lab.comparison.record import Point, Run
from gradwire.lab.comparison.trainer import Trainer


def execute(
    name: str,
    job: TrainingJob,
    ranks: int,
    rate: str | None,
    listen: Callable[[Started | Point | Pulse], None] = remote.ignore,
) -> Run:
    """Train on `ranks` processes, on links of `rate` or over loopback, and return the run's record.

    Raises:
        gradwire.lab.remote.Failed: a rank refused its input or died; the message comes from the rank.
        gradwire.net.Refused: links of a chosen rate are not available.
    """
    run = remote.run(train, job, ranks, name=f"the run {name!r}", rate=rate, listen=listen, timeout=120)
    return replace(run, name=name)


def train(job: TrainingJob, report: remote.Report) -> Run:
    """Train as one of the ranks."""
    return Trainer(job, report).run()
