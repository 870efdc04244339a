"""`gradwire scale`: predict a step with any number of workers, from rehearsed work and a model of the network."""

from __future__ import annotations

import math
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from gradwire.cli.console import bars, check_folder, numbered, numbers, out
from gradwire.lab import scale
from gradwire.report import bench_words, words
from gradwire.report.whole import write_whole

COLUMNS = ("step", "wire", "select", "decode", "MB up", "down", "held")
CAPTION = "ms of a step, MB of an exchange; held: MB beside model and gradients"
NAME_WIDTH = 24
"""Characters that a line of 80 leaves to a method's name beside the columns."""

NOTE = (
    "Rehearsed on this machine, one thread a worker, on gradients that differ like those of a few measured ranks. "
    "Collectives are gloo's, links have no congestion, and nothing overlaps with backward."
)
"""The assumptions behind the figures."""

LOCAL_NOTE = "Local steps divide an exchange by the steps of a round; their effect on the loss is not included."


def predict(
    model: str,
    method: list[str] | None,
    workers: list[str] | None,
    rate: list[str] | None,
    latency_us: float,
    island: int,
    inside: str,
    compute_ms: float | None,
    bucket_mb: float,
    output: Path | None,
) -> None:
    """Run `gradwire scale`: rehearse, print and write the forecast. The arguments are the command's options."""
    plan = scale.ScalePlan(
        model,
        tuple(method) if method else scale.METHODS,
        numbers("--workers", workers, 2, scale.MOST) if workers else scale.ScalePlan.sizes,
        tuple(rate) if rate else scale.ScalePlan.rates,
        latency_us / 1e6,
        island,
        inside,
        compute=None if compute_ms is None else compute_ms / 1e3,
        bucket_mb=bucket_mb,
    )
    if output is not None:
        check_folder(output, "the figures")
    with bars() as progress:
        task = progress.add_task("rehearsing", total=len(plan.methods) * len(plan.sizes), facts="")

        def hear(method: str, size: int) -> None:
            progress.update(task, advance=1, facts=f"{words.short(method, 28)} x {size}")

        sheet = scale.run(plan, hear)
        progress.update(task, facts="done")
    _finish(sheet, output)


def table(sheet: scale.Forecast, rate: str, size: int) -> tuple[Table, list[str]]:
    """Make the table of one number of workers on one link, the fastest method first, and the lines below it.

    The lines hold names too long for a row and the reasons why methods could not be rehearsed.
    """
    predictions = scale.predictions(sheet, rate, size)
    names, below = numbered([one.work.method for one in predictions], NAME_WIDTH)
    title = f"{sheet.plan.model}, {size} workers, {place(sheet.plan, rate)}, {1e3 * sheet.compute:.1f} ms of compute"
    found = Table(title=title, caption=CAPTION, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    found.add_column("method", no_wrap=True)
    for column in COLUMNS:
        found.add_column(column, justify="right", no_wrap=True)
    for name, one in zip(names, predictions, strict=True):
        work = one.work
        if work.refusal:
            found.add_row(escape(name), "-")
            below.append(f"{name}: {work.refusal}")
            continue
        milliseconds = (one.step, one.wire, work.selection, work.decode)
        found.add_row(
            escape(name),
            *(words.number(1e3 * seconds) for seconds in milliseconds),
            *(words.number(nbytes / 1e6) for nbytes in (work.up, work.down, work.memory)),
        )
    return found, below


def map_of(sheet: scale.Forecast) -> Table:
    """Tabulate the fastest method by number of workers and rate.

    Where it takes local steps, the fastest method that exchanges at every step follows in brackets.
    """
    found = Table(title="the fastest method, and its step in ms", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    found.add_column("workers", justify="right")
    for rate in sheet.plan.rates:
        found.add_column(rate, overflow="fold")
    for size in sheet.plan.sizes:
        found.add_row(str(size), *(escape(_winner(sheet, rate, size)) for rate in sheet.plan.rates))
    return found


def place(plan: scale.ScalePlan, rate: str) -> str:
    """Describe the network."""
    return rate if plan.island == 1 else f"islands of {plan.island}, {rate} between"


def _winner(sheet: scale.Forecast, rate: str, size: int) -> str:
    one = scale.best(sheet, rate, size)
    text = _cell(one)
    if one.work.every == 1 or not sheet.every_step:
        return text
    other = scale.best(sheet, rate, size, every_step=True)
    return text if math.isinf(other.step) else f"{text} [{_cell(other)}]"


def _cell(one: scale.Prediction) -> str:
    return "-" if math.isinf(one.step) else f"{one.work.method} {words.number(1e3 * one.step)}"


def _finish(sheet: scale.Forecast, output: Path | None) -> None:
    """Print the forecast and, if `output` is given, write it as JSON."""
    for size in sheet.plan.sizes:
        for rate in sheet.plan.rates:
            figures, lines = table(sheet, rate, size)
            out.print(figures)
            for line in lines:
                out.print(line, markup=False, highlight=False, soft_wrap=True)
    out.print(map_of(sheet))
    for line in scale.crossovers(sheet):
        out.print(line, markup=False, soft_wrap=True)
    out.print(NOTE, markup=False)
    if any(work.every > 1 for work in sheet.works):
        out.print(LOCAL_NOTE, markup=False)
    out.print(bench_words.measured_with(sheet.versions), markup=False)
    if output is not None:
        write_whole(sheet.to_json(), output)
        out.print(f"The figures: {output.resolve()}", soft_wrap=True)
