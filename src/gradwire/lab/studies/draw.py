"""Draw a chart: its panels side by side; a label has the same colour in all panels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradwire.lab.studies.chart import Chart, Line, Panel
from gradwire.lab.studies.figures.draw import COLOURS, canvas

WIDTH, HEIGHT, COLUMNS = 5.2, 3.6, 3
MOST_TICKS = 10
"""A logarithmic axis labels each x value if there are at most this many."""


def draw(chart: Chart, path: Path) -> None:
    """Write a chart as a PNG."""
    columns = 2 if len(chart.panels) == 4 else min(COLUMNS, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    picture = canvas(WIDTH * columns, HEIGHT * rows + 0.5)
    grid: list[Any] = picture.subplots(rows, columns, squeeze=False).flatten().tolist()
    labels = list(dict.fromkeys(line.label for line in chart.lines))
    colours = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(labels)}
    for axes, panel in zip(grid, chart.panels, strict=False):
        lines = [line for line in chart.lines if line.panel == panel.title]
        (_bars if panel.ticks else _lines)(axes, panel, lines, colours)
        axes.set_title(panel.title, fontsize=10, loc="left")
        axes.set_xlabel(panel.x)
        axes.set_ylabel(panel.y)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(chart.panels) :]:
        axes.set_visible(False)
    marks = dict(mark for axes in grid for mark in zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    ncols = 6 if sum(map(len, marks)) <= 80 else 3 if max(map(len, marks)) <= 45 else 2
    picture.legend(marks.values(), marks, loc="outside lower center", ncols=ncols, fontsize=9, frameon=False)
    picture.suptitle(chart.title, fontsize=12)
    picture.savefig(path, dpi=110)


def _lines(axes: Any, panel: Panel, lines: list[Line], colours: dict[str, str]) -> None:
    """Draw lines, with bands from low to high if they have them."""
    for place, line in enumerate(lines):
        style = "-" if place % 2 == 0 else (0, (5, 3))  # dashed, as lines may coincide
        marker = "o" if len(line.x) < 12 else None
        colour = colours[line.label]
        axes.plot(line.x, line.y, color=colour, ls=style, label=line.label, lw=1.5, marker=marker, ms=3.5)
        if line.low:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.13, lw=0)
    if panel.level is not None:
        axes.axhline(panel.level, color="#444444", lw=0.8, ls=":")
    if panel.log_x:
        axes.set_xscale("log")
        if len(ticks := sorted({x for line in lines for x in line.x})) <= MOST_TICKS:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
    if panel.log_y:
        axes.set_yscale("log")


def _bars(axes: Any, panel: Panel, lines: list[Line], colours: dict[str, str]) -> None:
    """Draw the lines as stacked bars."""
    if panel.log_y:
        axes.set_yscale("log")
    floor = [0.0] * len(panel.ticks)
    for line in lines:
        axes.bar(line.x, line.y, bottom=floor, width=0.6, color=colours[line.label], label=line.label)
        floor = [below + y for below, y in zip(floor, line.y, strict=True)]
    axes.set_xticks(range(len(panel.ticks)), panel.ticks, rotation=20, ha="right", fontsize=8)
