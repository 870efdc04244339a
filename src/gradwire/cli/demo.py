"""`gradwire demo`: the small GPT over a slow link, dense against fewer bytes."""

from __future__ import annotations

import os
from pathlib import Path

from rich.table import Table

from gradwire import kernels, report
from gradwire.cli.console import bars, check_folder, command, err, link_of, out
from gradwire.cli.train import follow
from gradwire.lab import records
from gradwire.lab.comparison import demo
from gradwire.lab.comparison.record import Comparison, Run
from gradwire.report import sentences, words


def show(full: bool, seconds: float | None, rate: str | None, ranks: int, seed: int, output: Path) -> None:
    """Run `gradwire demo`: train, print and write the report. The arguments are the command's options."""
    jobs = demo.jobs(demo.FULL if full else demo.SHORT, seconds, seed)
    rate, link = link_of(rate)
    check_folder(output, "the report")
    budget = next(iter(jobs.values())).seconds
    out.print("loading the loops over gradients, which are compiled the first time: up to half a minute")
    kernels.warm_up()  # once, in this process: otherwise every rank would compile the same loops on the same cores
    sizes: list[int] = []
    runs: list[Run] = []
    out.print(f"{len(jobs)} runs of {budget:g} s on {ranks} ranks, {link}", soft_wrap=True)
    if sentence := busy():
        err.print(f"gradwire: {sentence}", style="yellow", markup=False, soft_wrap=True)
    with bars() as progress:
        for name, job in jobs.items():
            runs.append(follow(progress, name, job, ranks, rate, sizes))
    comparison = Comparison(
        title="gradwire: dense against fewer bytes",
        model=demo.model_name(next(iter(jobs.values())), sizes[0]),
        corpus="the source of CPython's standard library, as bytes",
        link=link,
        ranks=ranks,
        budget_seconds=budget,
        command=command(),
        versions=records.platform_versions(),
        note=f"{demo.note(full)}\n{sentence}".strip(),
        runs=tuple(runs),
    )
    report.write(comparison, output)
    output.with_suffix(".json").write_text(comparison.to_json())
    out.print(table(comparison))
    for sentence in filter(None, (f"{sentences.headline(comparison)}.", sentences.noise(comparison))):
        out.print(sentence, markup=False, highlight=False)
    out.print(f"The report: {output.resolve()}", soft_wrap=True)


def busy() -> str:
    """A warning if the load exceeds the number of cores, so that times are not due to the link alone; else ""."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load <= cores:
        return ""
    return (
        f"Other programs kept this machine busy as the runs began (load {load:.1f} on {cores} cores): "
        "times are longer than it can do, and unevenly so."
    )


def table(comparison: Comparison) -> Table:
    """Make a row for every run, with the time and bytes until dense's final loss; at most 80 columns wide."""
    dense = comparison.baseline
    found = Table(
        title=f"The way to the final loss of {dense.name}, {words.loss(dense.points[-1].loss)}",
        title_justify="left",
        caption="loss: each run's own at its end. MB are sent by one rank.",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        header_style="bold underline",
    )
    found.add_column("run", no_wrap=True)
    for column in ("ms/step", "MB/step", "loss", "there after", "sooner", "with MB", "fewer"):
        found.add_column(column, justify="right", no_wrap=True)
    for run in comparison.runs:
        steps, here = max(1, run.points[-1].step - run.points[0].step), comparison.crossing(run)
        sooner = comparison.speedup(run)
        fewer = dense.points[-1].sent_bytes / here.sent_bytes if here and here.sent_bytes else None
        found.add_row(
            run.name,
            words.number(1e3 * run.step_seconds),
            words.number(run.ledger_bytes / steps / 1e6),
            words.loss(run.points[-1].loss),
            words.reached(comparison, run),
            f"{words.factor(sooner)}x" if sooner and run is not dense else "",
            words.number(here.sent_bytes / 1e6) if here else "-",
            f"{words.factor(fewer)}x" if fewer and run is not dense else "",
        )
    return found
