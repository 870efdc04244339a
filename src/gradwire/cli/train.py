"""`gradwire demo` and `gradwire train`: the small GPT on processes of this machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from gradwire import report
from gradwire.cli.console import bars, command, complain, link_of, out
from gradwire.lab import records
from gradwire.lab.comparison import demo
from gradwire.lab.comparison.job import Pulse, Started, TrainingJob
from gradwire.lab.comparison.on_ranks import execute
from gradwire.lab.comparison.record import Comparison, Point, Run

Rate = Annotated[str | None, typer.Option(help="Bandwidth of every link: 10mbit, 100mbit, 1gbit. Left out: loopback.")]
Ranks = Annotated[int, typer.Option(min=1, max=64, help="Processes, each on a link of its own.")]
Seed = Annotated[int, typer.Option(help="Of model, data and compression.")]


def demo_command(
    seconds: Annotated[float, typer.Option(help="Training time of every run.")] = 50.0,
    rate: Rate = "100mbit",
    ranks: Ranks = 2,
    seed: Seed = 0,
    output: Annotated[Path, typer.Option(help="The report; its data goes beside it as .json.")] = Path(
        "gradwire-report.html"
    ),
) -> None:
    """Train a small GPT over a slow link, dense against fewer bytes, and write a report."""
    jobs = demo.jobs(seconds, seed)
    rate, link = link_of(rate)
    if not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent} to write the report to")
    sizes: list[int] = []
    runs: list[Run] = []
    out.print(f"{len(jobs)} runs of {seconds:g} s on {ranks} ranks, {link}")
    with bars() as progress:
        for name, job in jobs.items():
            runs.append(_follow(progress, name, job, ranks, rate, sizes))
    comparison = Comparison(
        title="gradwire: dense against fewer bytes",
        model=demo.model_name(next(iter(jobs.values())), sizes[0]),
        corpus="the source of CPython's standard library, as bytes",
        link=link,
        ranks=ranks,
        budget_seconds=seconds,
        command=command(),
        versions=records.platform_versions(),
        note=demo.NOTE,
        runs=tuple(runs),
    )
    report.write(comparison, output)
    output.with_suffix(".json").write_text(comparison.to_json())
    out.print(_table(comparison.runs, comparison))
    out.print(f"The report: {output.resolve()}", soft_wrap=True)


def train_command(
    exchange: Annotated[
        str, typer.Option(help="A spec such as 'ef(deft(density=0.01))', or dense, fp16, powersgd4, 'local(every=10)'.")
    ],
    ranks: Ranks = 2,
    rate: Rate = None,
    seconds: Annotated[float, typer.Option(help="Training time.")] = 60.0,
    steps: Annotated[int, typer.Option(help="Steps, if they end before the time.")] = 1_000_000,
    seed: Seed = 0,
    optimizer: Annotated[str, typer.Option(help="adamw, or sgd with Nesterov momentum 0.8.")] = TrainingJob.optimizer,
    learning_rate: Annotated[
        float, typer.Option(help="After the warm-up; a cosine takes it down.")
    ] = TrainingJob.learning_rate,
    width: Annotated[int, typer.Option(help="Of the model.")] = TrainingJob.width,
    bucket_mb: Annotated[float | None, typer.Option(help="Megabytes exchanged together.")] = None,
    save: Annotated[Path | None, typer.Option(help="Folder to write a checkpoint to, one file a rank.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a checkpoint to go on from.")] = None,
) -> None:
    """Train the small GPT once, on processes of this machine."""
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
    out.print(f"{exchange} on {ranks} ranks, {link}", markup=False)
    with bars() as progress:
        run = _follow(progress, exchange, job, ranks, rate, [])
    out.print(_table([run]))
    check_finite(run)


def check_finite(run: Run) -> None:
    """End with code 1 after a run whose last loss says nothing."""
    last = run.points[-1]
    if not math.isfinite(last.loss):
        complain(f"the loss is {last.loss} after {last.step} steps: the run has diverged; try a lower --learning-rate")
        raise typer.Exit(1)


def _follow(progress: Progress, name: str, job: TrainingJob, ranks: int, rate: str | None, sizes: list[int]) -> Run:
    """Execute a job behind a progress bar; note the model's parameters in `sizes`."""
    task = progress.add_task(name, total=1.0, facts="starting")
    loss = float("nan")

    def listen(event: Started | Point | Pulse) -> None:
        nonlocal loss
        seconds = 0.0
        if isinstance(event, Started):
            sizes.append(event.parameters)
        else:
            seconds = event.seconds
        if isinstance(event, Point):
            loss = event.loss
        done = max(seconds / job.seconds, event.step / job.steps)
        progress.update(task, completed=done, facts=f"step {event.step:>5}  loss {loss:.3f}")

    run = execute(name, job, ranks, rate, listen)
    progress.update(task, completed=1.0)
    return run


def _table(runs: tuple[Run, ...] | list[Run], comparison: Comparison | None = None) -> Table:
    """The figures of the runs, and against the baseline if there is one."""
    columns = ("run", "steps", "ms a step", "compute + selection + wire", "MB a step", "tx / ledger", "loss")
    table = Table(*columns, title="What fewer bytes bought", caption="tx: the kernel's count, less protocol headers")
    if comparison:
        table.add_column("dense's final loss after")
    for run in runs:
        steps = max(1, run.points[-1].step - run.points[0].step)
        row = [
            run.name,
            f"{steps}",
            f"{1e3 * run.step_seconds:.0f} [{1e3 * run.step_seconds_low:.0f}-{1e3 * run.step_seconds_high:.0f}]",
            " + ".join(f"{1e3 * part:.0f}" for part in (run.split.compute, run.split.selection, run.split.wire)),
            f"{run.ledger_bytes / steps / 1e6:.3f}",
            f"{run.link_payload / run.ledger_bytes:.3f}" if run.link_bytes and run.ledger_bytes else "-",
            f"{run.points[-1].loss:.3f}",
        ]
        if comparison:
            seconds, speedup = comparison.seconds_to_baseline(run), comparison.speedup(run)
            row.append(f"{seconds:.1f} s, {speedup:.1f}x" if seconds and speedup else "not reached")
        table.add_row(*row)
    return table
