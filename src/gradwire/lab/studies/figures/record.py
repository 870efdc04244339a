"""A figure as numbers: curves, facts about each, and the files to which they are written."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gradwire.lab import records
from gradwire.lab.convex import theory
from gradwire.lab.convex.descent import Mark, Trace
from gradwire.lab.convex.problems import Problem

TARGET = 1e-8
"""The error at which rounds and bytes are compared."""

ROUNDING = 1e-26
"""The error below which rounding in float64 ends a theorem's guarantee."""


@dataclass(frozen=True)
class Facts:
    """One run compared with its theorem. A figure that theory does not give, or the run did not reach, is None.

    contraction: measured factor of the error per round, while it falls. rate: the theorem's factor of its Lyapunov
    function V. plateau: mean error over the last quarter. neighbourhood: the theorem's limit, relative to |x^0 - x*|^2.
    worst: the largest ratio of the error to rate^k V(0) + neighbourhood; at most 1 if the run keeps to the theorem's
    bound, which is a bound on the expectation. rounds, bytes: at the error `TARGET`.
    """

    step: float
    contraction: float | None
    rate: float | None
    plateau: float
    neighbourhood: float | None
    worst: float | None
    rounds: int | None
    bytes: int | None


@dataclass(frozen=True)
class Curve:
    """One run in one panel. seconds: the times of the marks, for runs on a real link, else empty."""

    panel: str
    label: str
    method: str
    exchange: str
    marks: tuple[Mark, ...]
    facts: Facts
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Figure:
    """Curves with a title and a caption."""

    name: str
    title: str
    caption: str
    curves: tuple[Curve, ...]


def curve(panel: str, label: str, problem: Problem, trace: Trace, seconds: tuple[float, ...] = ()) -> Curve:
    """Make a curve of a run, with the facts that compare it with its theorem."""
    method = trace.method
    return Curve(panel, label, method.name, repr(method.exchange), trace.marks, _facts(problem, trace), seconds)


def write(figure: Figure, folder: Path, command: str) -> list[Path]:
    """Write NAME.csv, one line a mark, and NAME.json, which holds facts, versions and the exact command."""
    table, record = folder / f"{figure.name}.csv", folder / f"{figure.name}.json"
    with table.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["panel", "label", "round", "bytes", "traffic", "error", "seconds"])
        for line in figure.curves:
            times: Sequence[float | str] = line.seconds or [""] * len(line.marks)
            for mark, seconds in zip(line.marks, times, strict=True):
                lines.writerow([line.panel, line.label, mark.round, mark.bytes, mark.traffic, mark.error, seconds])
    curves = [
        {"panel": line.panel, "label": line.label, "method": line.method, "exchange": line.exchange}
        | {"facts": {name: _plain(value) for name, value in asdict(line.facts).items()}}
        for line in figure.curves
    ]
    about = {"name": figure.name, "title": figure.title, "caption": figure.caption, "command": command}
    record.write_text(json.dumps({**about, "versions": records.versions(), "curves": curves}, indent=1) + "\n")
    return [table, record]


def _plain(value: float | None) -> float | str | None:
    """Convert floats that are not finite to strings, because JSON has no such numbers."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _facts(problem: Problem, trace: Trace) -> Facts:
    plan, reached = trace.method.plan, trace.first_below(TARGET)
    rate = neighbourhood = worst = None
    if plan is not None and isinstance(plan.lyapunov, theory.Distance):
        rate, h = plan.rate, trace.method.shifts
        scale = (problem.start - problem.best).square().sum()
        begin = (plan.lyapunov(problem.start, h, problem.best, problem.best_gradients) / scale).item()
        neighbourhood = (plan.neighbourhood(problem.best, problem.best_gradients, h) / scale).item()
        worst = max(mark.error / (rate**mark.round * begin + neighbourhood + ROUNDING) for mark in trace.marks[1:])
    if plan is not None and isinstance(plan.lyapunov, theory.Consensus):
        rate = plan.rate
    return Facts(
        step=trace.method.step,
        contraction=None if math.isnan(fall := trace.contraction()) else fall,
        rate=rate,
        plateau=trace.plateau,
        neighbourhood=neighbourhood,
        worst=worst,
        rounds=None if reached is None else reached.round,
        bytes=None if reached is None else reached.bytes,
    )
