"""A task's training on real ranks: the loop, gradients, memories and checkpoints of one process, one worker a rank."""

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
    """A training, and the files of its checkpoints."""

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
    """Train with a process for each worker, on links of `rate` or over loopback; else as `train`.

    Seconds are those of worker 0. Gradients are equal to those of one process; the sums of gloo are rounded in another
    order.

    Raises:
        gradwire.lab.remote.Failed: a rank refused its input or died; the message is its own.
        gradwire.net.Refused: the kernel does not give links.
    """
    files = (str(path.resolve()) if path else None for path in (resume, save))
    ranked, name = RankedTraining(training, *files), f"the training of {training.task}"
    return remote.run(train_on_rank, ranked, training.workers, name=name, rate=rate, listen=listen, timeout=300)


def train_on_rank(ranked: RankedTraining, tell: remote.Tell) -> History:
    """Be one of the workers."""
    resume, save = (Path(file) if file else None for file in (ranked.resume, ranked.save))
    return follow(ranked.training, OnRank, tell, resume, save)
