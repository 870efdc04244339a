"""The training loop: every worker's gradient at the same model, their compressed mean, one step of an optimizer."""

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
    """Train with all workers in this process; equal settings give equal bits, on one thread.

    Args:
        training: the run.
        listen: is called with every step and evaluation.
        resume: a checkpoint to go on from, of the same run up to its steps and learning rate.
        save: the file for a checkpoint, written whole at every evaluation.

    Raises:
        ValueError: settings that do not fit data or checkpoint.
        ArithmeticError: a gradient is not finite any more.
        ModuleNotFoundError, FileNotFoundError: data or checkpoint are not there.
    """
    return follow(training, InProcess, listen, resume, save)


def follow(
    training: Training, meet: Meet, listen: Callable[[Event], None], resume: Path | None, save: Path | None
) -> History:
    """Train with those workers that `meet` places in this process."""
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
    """Refuse what local steps cannot do here."""
    if meet is not InProcess:
        raise ValueError("local steps of the laboratory run in one process: give workers instead of ranks")
    if (file := resume or save) is not None:
        raise ValueError(f"a run of local steps keeps no checkpoints in the laboratory; leave out {file}")


def _record(run: TrainingRun | LocalRun, listen: Callable[[Event], None], save: Path | None) -> History:
    """Take all steps of a run, and evaluate it every so often."""
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
