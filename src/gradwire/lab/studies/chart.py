"""A chart as numbers: panels, lines with bands, a table of facts, and the files to which they are written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from gradwire.lab import records

Report: TypeAlias = Callable[[str], None]
"""Called with a few words after every finished piece of work."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ticks: names of bars; the lines are then stacked. level: a height to mark for comparison."""

    title: str
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    ticks: tuple[str, ...] = ()
    level: float | None = None


@dataclass(frozen=True)
class Line:
    """A labelled line in a panel. low, high: minimum and maximum of the values of which y is the mean or median."""

    panel: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Panels with their lines. facts: a table of the chart's numbers, one mapping a row."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    lines: tuple[Line, ...]
    facts: tuple[Mapping[str, Any], ...] = field(default=())


def write(chart: Chart, folder: Path, command: str) -> list[Path]:
    """Write NAME.csv, one line a point, and NAME.json, which holds facts, versions and the exact command."""
    table, record = folder / f"{chart.name}.csv", folder / f"{chart.name}.json"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["panel", "label", "x", "y", "low", "high"])
        for line in chart.lines:
            blank = [""] * len(line.x)
            spread = (line.low or blank, line.high or blank)
            rows.writerows([line.panel, line.label, *point] for point in zip(line.x, line.y, *spread, strict=True))
    about = {"name": chart.name, "title": chart.title, "caption": chart.caption, "command": command}
    record.write_text(
        json.dumps({**about, "versions": records.versions(), "facts": list(chart.facts)}, indent=1) + "\n"
    )
    return [table, record]


def thin(values: Sequence[float], window: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Average over windows of consecutive steps, counted from 1: (last step of each window, mean)."""
    ends = range(window, len(values) + 1, window)
    return tuple(float(end) for end in ends), tuple(sum(values[end - window : end]) / window for end in ends)
