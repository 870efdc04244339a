"""Draw a figure: for every panel two axes, the error by rounds (or seconds) and the error by kilobytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradwire.lab.studies.figures.record import Curve, Figure

FLOOR = 1e-26
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000", "#ee8866")
"""A palette that colour-blind readers can tell apart (P. Tol)."""


def draw(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG. A label has the same colour in all panels."""
    panels = list(dict.fromkeys(curve.panel for curve in figure.curves))
    labels = list(dict.fromkeys(curve.label for curve in figure.curves))
    colours = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(labels)}
    picture = canvas(11, 0.9 + 3.1 * len(panels))
    grid: Any = picture.subplots(len(panels), 2, squeeze=False)
    for row, panel in zip(grid, panels, strict=True):
        curves = [curve for curve in figure.curves if curve.panel == panel]
        timed = all(curve.seconds for curve in curves)
        for axes, (name, values) in zip(row, _abscissae(timed), strict=True):
            for curve in curves:
                style = "-" if labels.index(curve.label) % 2 == 0 else (0, (5, 3))  # dashed, as curves may coincide
                colour = colours[curve.label]
                axes.semilogy(values(curve), _errors(curve), color=colour, ls=style, label=curve.label, lw=1.4)
            axes.set_xlabel(name)
            axes.set_title(panel, fontsize=10, loc="left")
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("|x - x*|² / |x⁰ - x*|²")
        row[1].legend(fontsize=8, frameon=False)
    picture.suptitle(figure.title, fontsize=12)
    picture.savefig(path, dpi=110)


def canvas(width: float, height: float) -> Any:
    """Make an empty picture of this size in inches; ModuleNotFoundError if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(f"drawing needs {missing.name}: pip install 'gradwire[lab]'") from missing
    return Canvas(figsize=(width, height), layout="constrained")


def _abscissae(timed: bool) -> list[tuple[str, Callable[[Curve], Sequence[float]]]]:
    """The name and the values of both horizontal axes."""
    first = ("seconds", _seconds) if timed else ("rounds", _rounds)
    return [first, ("kilobytes sent by a worker", _kilobytes)]


def _seconds(curve: Curve) -> Sequence[float]:
    return curve.seconds


def _rounds(curve: Curve) -> Sequence[float]:
    return [mark.round for mark in curve.marks]


def _kilobytes(curve: Curve) -> Sequence[float]:
    return [mark.bytes / 1e3 for mark in curve.marks]


def _errors(curve: Curve) -> list[float]:
    return [max(mark.error, FLOOR) for mark in curve.marks]
