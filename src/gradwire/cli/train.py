"""`gradwire train`: train the small GPT once, on processes of this machine."""

from __future__ import annotations

import math
from pathlib import Path

import typer
from rich.progress import Progress

from gradwire.cli.console import bars, complain, link_of, out
from gradwire.lab.comparison.job import Pulse, Started, TrainingJob
from gradwire.lab.comparison.on_ranks import execute
from gradwire.lab.comparison.record import Point, Run


def train(
    exchange: str,
    ranks: int,
    rate: str | None,
    seconds: float,
    steps: int,
    seed: int,
    optimizer: str,
    learning_rate: float,
    width: int,
    bucket_mb: float | None,
    save: Path | None,
    resume: Path | None,
) -> None:
    """Run `gradwire train`: train and print the run. The arguments are the command's options."""
    job = TrainingJob(
        exchange,
        seconds=seconds,
        steps=steps,
        seed=seed,
        optimizer=optimizer,
        learning_rate=learning_rate,
        width=width,
        bucket_mb=bucket_mb,
        save=str(save.resolve()) if save else None,
        resume=str(resume.resolve()) if resume else None,
    )
    rate, link = link_of(rate)
    out.print(f"{exchange} on {ranks} ranks, {link}", markup=False, soft_wrap=True)
    with bars() as progress:
        run = follow(progress, exchange, job, ranks, rate, [])
    for line in facts(run):
        out.print(line, markup=False, highlight=False)
    check_finite(run)


def check_finite(run: Run) -> None:
    """Exit with code 1 if the run's last loss is not finite."""
    last = run.points[-1]
    if not math.isfinite(last.loss):
        complain(f"the loss is {last.loss} after {last.step} steps: the run has diverged; try a lower --learning-rate")
        raise typer.Exit(1)


def facts(run: Run) -> list[str]:
    """Summarise a run in lines for the terminal."""
    first, last, split = run.points[0], run.points[-1], run.split
    steps = max(1, last.step - first.step)
    low, median, high = (
        f"{1e3 * each:.0f}" for each in (run.step_seconds_low, run.step_seconds, run.step_seconds_high)
    )
    compute, selection, wire = (f"{1e3 * part:.0f}" for part in (split.compute, split.selection, split.wire))
    counted = f"; the kernel counts {run.link_payload / run.ledger_bytes:.3f} of that, less protocol headers"
    return [
        f"steps          {steps:,} in {last.seconds:.1f} s",
        f"a step         {median} ms, [{low}-{high}] from the 10th to the 90th percentile",
        f"               compute {compute} + selection {selection} + wire {wire} ms, medians",
        f"sent a step    {run.ledger_bytes / steps / 1e6:.3f} MB" + counted * bool(run.link_bytes and run.ledger_bytes),
        f"held-out loss  {last.loss:.3f} nats per byte, {first.loss:.3f} at the start",
    ]


def follow(progress: Progress, name: str, job: TrainingJob, ranks: int, rate: str | None, sizes: list[int]) -> Run:
    """Run a job and show its progress: a bar on a terminal, else a line for every evaluation.

    Appends the model's number of parameters to `sizes`.
    """
    task = progress.add_task(name, total=1.0, facts="starting")
    loss, live = float("nan"), out.is_terminal

    def listen(event: Started | Point | Pulse) -> None:
        nonlocal loss
        seconds = 0.0
        if isinstance(event, Started):
            sizes.append(event.parameters)
        else:
            seconds = event.seconds
        if isinstance(event, Point):
            loss = event.loss
            if not live:
                out.print(f"{name}: {seconds:.1f} s  step {event.step}  loss {loss:.3f}", markup=False, soft_wrap=True)
        done = max(seconds / job.seconds, event.step / job.steps)
        progress.update(task, completed=done, facts=f"step {event.step:>5}  loss {loss:.3f}")

    if not live:
        out.print(f"{name}: starting {ranks} ranks", markup=False, soft_wrap=True)
    run = execute(name, job, ranks, rate, listen)
    progress.update(task, completed=1.0)
    return run
