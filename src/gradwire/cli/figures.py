"""`gradwire lab figure`: run, draw and write the figures of the documentation."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.table import Table

from gradwire.cli.console import bars, command, out
from gradwire.cli.descend import follow
from gradwire.lab import studies
from gradwire.lab.studies import figures
from gradwire.lab.studies.figures import link
from gradwire.lab.studies.figures.draw import canvas

NAMES = (*figures.FIGURES, "link", *studies.STUDIES)
"""Names of all figures."""


def make(name: str, output: Path, seed: int) -> None:
    """Run `gradwire lab figure`: compute, draw and write figures. The arguments are the command's options.

    Raises:
        ValueError: the figure is unknown, or `output` is a file.
    """
    torch.set_num_threads(1)
    if name not in (*NAMES, "all"):
        raise ValueError(f"unknown figure {name!r}; known are {', '.join([*NAMES, 'all'])}")
    if output.exists() and not output.is_dir():
        raise ValueError(f"a figure is written to a folder, and {output} is a file")
    canvas(1, 1)  # fail before the runs if matplotlib is missing
    output.mkdir(parents=True, exist_ok=True)
    for each in NAMES if name == "all" else (name,):
        picture = output / f"{each}.png"
        if each in studies.STUDIES:
            chart = _study(each, seed)
            written = studies.write(chart, output, command())
            studies.draw(chart, picture)
            table = _facts(chart)
        else:
            figure = _on_ranks(seed) if each == "link" else _in_process(figures.plan(each, seed), seed)
            written = figures.write(figure, output, command())
            figures.draw(figure, picture)
            table = _table(figure)
        out.print(table)
        out.print(f"Written: {', '.join(str(path) for path in [picture, *written])}", soft_wrap=True)


def _study(name: str, seed: int) -> studies.Chart:
    """Run a study and show its progress in one bar."""
    study = studies.STUDIES[name]
    with bars() as progress:
        bar = progress.add_task(name, total=study.pieces, facts="")
        return study.make(seed, lambda words: progress.update(bar, advance=1, facts=words))


def _facts(chart: studies.Chart) -> Table:
    """Make a table of a chart's facts, a row each."""
    table = Table(*chart.facts[0], title=chart.title, caption=chart.caption)
    for row in chart.facts:
        table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    return table


def _in_process(planned: figures.PlannedFigure, seed: int) -> figures.Figure:
    """Run a figure's curves one after the other, in this process."""
    curves: list[figures.Curve] = []
    with bars() as progress:
        for each in planned.curves:
            name = f"{each.panel}: {each.label}"
            trace = follow(progress, name, each.problem, each.method, each.rounds, seed, each.until, "batched")
            curves.append(figures.curve(each.panel, each.label, each.problem, trace))
    return figures.Figure(planned.name, planned.title, planned.caption, tuple(curves))


def _on_ranks(seed: int) -> figures.Figure:
    """Run the curves of the link figure on real ranks."""
    with bars() as progress:

        def start(name: str) -> link.Report:
            task = progress.add_task(name, total=1.0, facts="starting")

            def report(done: float, facts: str) -> None:
                progress.update(task, completed=done, facts=facts)

            return report

        return link.figure(seed, start)


def _table(figure: figures.Figure) -> Table:
    """Make a table that compares every run with its theorem."""
    columns = ("", "", "rounds to 1e-8", "kB to 1e-8", "ends at", "theory", "per round", "theory", "worst / bound")
    table = Table(*columns, title=figure.title, caption=figure.caption)
    panel = ""
    for line in figure.curves:
        facts = line.facts
        table.add_row(
            line.panel if line.panel != panel else "",
            line.label,
            "-" if facts.rounds is None else f"{facts.rounds:,}",
            "-" if facts.bytes is None else f"{facts.bytes / 1e3:,.0f}",
            f"{facts.plateau:.1e}",
            _number(facts.neighbourhood, ".1e"),
            _number(facts.contraction, ".6f"),
            _number(facts.rate, ".6f"),
            _number(facts.worst, ".3f"),
        )
        panel = line.panel
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
