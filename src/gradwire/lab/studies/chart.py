"""A chart as numbers: panels, lines with their spread, a table of facts, and the files they are written to."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from gradwire.lab import records

Report: TypeAlias = Callable[[str], None]
"""Takes a few words on every piece of work that is done."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ticks: names of bars; the lines are stacked in them. level: a height to compare with."""

    title: str
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    ticks: tuple[str, ...] = ()
    level: float | None = None


@dataclass(frozen=True)
class Line:
    """Points under a label in a panel. low, high: minimum and maximum of the values whose mean or median y is."""

    panel: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Panels with their lines. facts: what the chart says, one flat record a row of its table."""

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
    """Means over windows of consecutive steps, counted from 1: (last step of each window, mean)."""
    ends = range(window, len(values) + 1, window)
    return tuple(float(end) for end in ends), tuple(sum(values[end - window : end]) / window for end in ends)
