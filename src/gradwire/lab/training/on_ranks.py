"""Training a task on real ranks, one worker each; loop, gradients, states and checkpoints are those of one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gradwire.lab import remote
from gradwire.lab.averager import OnRank
from gradwire.lab.training.loop import follow
from gradwire.lab.training.settings import Event, History, Training


@dataclass(frozen=True)
class RankedTraining:
    """The settings of a run, and the paths of its checkpoints."""

    training: Training
    resume: str | None
    save: str | None


def train_on_ranks(
    training: Training,
    rate: str | None = None,
    listen: Callable[[Event], None] = remote.ignore,
    resume: Path | None = None,
    save: Path | None = None,
) -> History:
    """Train like `train`, but with a process for each worker, on links of `rate` or over loopback.

    Seconds are those of worker 0. Gradients equal those of one process; gloo's sums are rounded in another order.

    Raises:
        gradwire.lab.remote.Failed: a rank refused its input or died; the message comes from the rank.
        gradwire.net.Refused: links of a chosen rate are not available.
    """
    files = (str(path.resolve()) if path else None for path in (resume, save))
    ranked, name = RankedTraining(training, *files), f"the training of {training.task}"
    return remote.run(train_on_rank, ranked, training.workers, name=name, rate=rate, listen=listen, timeout=300)


def train_on_rank(ranked: RankedTraining, report: remote.Report) -> History:
    """Train as one of the ranks."""
    resume, save = (Path(file) if file else None for file in (ranked.resume, ranked.save))
    return follow(ranked.training, OnRank, report, resume, save)
