"""The training loop: all workers' gradients, their compressed mean, one step of an optimizer; or local steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gradwire.lab import remote
from gradwire.lab.averager import InProcess, Meet
from gradwire.lab.training.checkpoint import load, save_whole
from gradwire.lab.training.local_run import LocalRun
from gradwire.lab.training.run import TrainingRun
from gradwire.lab.training.settings import Evaluation, Event, History, Step, Training


def train(
    training: Training,
    listen: Callable[[Event], None] = remote.ignore,
    resume: Path | None = None,
    save: Path | None = None,
) -> History:
    """Train with all workers in this process. On one thread, equal settings give equal bits.

    Args:
        training: the settings.
        listen: called with every step and evaluation.
        resume: a checkpoint to continue from, of the same run except for steps, learning rate, decay, evaluations and
            data.
        save: the file for a checkpoint, written atomically at every evaluation.

    Raises:
        ValueError: the settings do not fit the data or the checkpoint.
        ArithmeticError: a gradient is not finite.
        ModuleNotFoundError, FileNotFoundError: data or checkpoint are missing.
    """
    return follow(training, InProcess, listen, resume, save)


def follow(
    training: Training, meet: Meet, listen: Callable[[Event], None], resume: Path | None, save: Path | None
) -> History:
    """Train with the workers that `meet` places in this process: all of them, or one."""
    if save is not None and save.is_dir():
        raise ValueError(f"a checkpoint is written to a file, and {save} is a folder")
    if save is not None and not save.parent.is_dir():
        raise ValueError(f"there is no folder {save.parent} to write the checkpoint {save.name} to")
    training = training.filled()
    if training.local is not None:
        _check_local(meet, resume, save)
        return _record(LocalRun(training, training.local), listen, None)
    run = TrainingRun(training, meet)
    if resume is not None:
        run.step, run.seconds = load(resume, run.training, run.model, run.optimizer, run.averager)
    return _record(run, listen, save)


def _check_local(meet: Meet, resume: Path | None, save: Path | None) -> None:
    """Raise ValueError for local steps on ranks or with checkpoints."""
    if meet is not InProcess:
        raise ValueError("local steps of the laboratory run in one process: give workers instead of ranks")
    if (file := resume or save) is not None:
        raise ValueError(f"a run of local steps keeps no checkpoints in the laboratory; leave out {file}")


def _record(run: TrainingRun | LocalRun, listen: Callable[[Event], None], save: Path | None) -> History:
    """Make all steps of a run, with the evaluations and checkpoints that are due."""
    steps: list[Step] = []
    evaluations: list[Evaluation] = []
    while True:
        if run.step % run.settings.evaluate_every == 0 or run.step >= run.settings.steps:
            if save is not None and isinstance(run, TrainingRun):
                save_whole(save, run.training, run.step, run.seconds, run.model, run.optimizer, run.averager)
            if 0 in run.workers:
                evaluations.append(run.evaluate())
                listen(evaluations[-1])
        if run.step >= run.settings.steps:
            return History(run.training, tuple(steps), tuple(evaluations), run.layout.d, run.task.source)
        steps.append(run.advance())
        listen(steps[-1])
