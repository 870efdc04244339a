"""The figure of one step: bars for compute, selection and wire of every run, with the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from gradwire.lab.comparison.record import Comparison, Run
from gradwire.report import style, svg, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = (835, 915, 995, 1076)  # right edges of the columns of numbers in the wide drawing
_TINTS = {"compute": 0.3, "selection": 0.62, "wire": 1.0}


def parts(run: Run) -> tuple[float, float, float]:
    """Milliseconds of one step: compute, selection, wire."""
    return run.split.compute * 1e3, run.split.selection * 1e3, run.split.wire * 1e3


def draw(comparison: Comparison, wide: bool) -> Figure:
    """Draw one step of every run: all bars to one scale, and if some are short, all enlarged (long ones are cut)."""
    from matplotlib.figure import Figure

    runs, totals = comparison.runs, [sum(_lengths(run)) for run in comparison.runs]
    longest = max(totals) or 1.0
    short = max((total for total in totals if 0 < total <= longest / 3), default=None)
    reach = longest if short is None else short * 1.06  # milliseconds across the detailed rows
    width, left, span, scaled, row = (1080, 166, 600, 24, 38) if wide else (380, 0, 380, 38, 64)
    head, lens = 28 if wide else 50, 66
    top = head if short is None else head + scaled * len(runs) + lens
    height = top + row * len(runs)
    figure = Figure((width / 72, height / 72), dpi=72)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # a canvas in CSS pixels
    axes.axis("off")
    _key(axes, wide, top - 14 if wide else 14)
    if short is not None:
        _lens(axes, left, span, (head, top - lens, top - 28), reach / longest)
        _text(axes, left, head - 11, "to scale", color=svg.MUTED)
        _text(axes, left, top - 14, f"the first {words.number(reach)} ms, enlarged", color=svg.MUTED)
    for index, run in enumerate(runs):
        if short is not None:
            _row_to_scale(axes, index, run, (left, head + scaled * index), span / longest, wide)
        _row_in_detail(axes, index, run, (left, top + row * index), (span, reach), wide)
    return figure


def _lengths(run: Run) -> list[float]:
    """The parts of a step as drawn: 0 for a part that was not measured."""
    return [part if math.isfinite(part) and part > 0 else 0.0 for part in parts(run)]


def _key(axes: Axes, wide: bool, y: float) -> None:
    """Draw the key of tints: wide, as headers of the columns of numbers, else as one line at the top."""
    for index, (part, tint) in enumerate(_TINTS.items()):
        x, swatch = (_COLUMNS[index], 11) if wide else (16 + 100 * index, -10)
        axes.plot(x + swatch, y, "s", color=svg.MUTED, alpha=tint, markersize=9, markeredgewidth=0)
        _text(axes, x, y, part, "right" if wide else "left", color=svg.MUTED)
    if wide:
        _text(axes, _COLUMNS[-1], y, "total ms", "right", color=svg.MUTED)


def _lens(axes: Axes, left: float, span: float, levels: tuple[float, float, float], fraction: float) -> None:
    """Shade the enlarged `fraction` of the bars to scale, and join it to their enlargement below."""
    top, neck, bottom = levels
    right = left + span * fraction
    outline = ((left, top), (right, top), (right, neck), (left + span, bottom), (left, bottom))
    axes.fill(*zip(*outline, strict=True), color=svg.RULE, alpha=0.5, linewidth=0, zorder=0)


def _row_to_scale(axes: Axes, index: int, run: Run, at: tuple[float, float], scale: float, wide: bool) -> None:
    """Draw a thin bar with the run's name and the total."""
    (x, y), lengths = at, _lengths(run)
    total, bar = f"{words.number(sum(lengths))} ms", y + (12 if wide else 26)
    _bar(axes, index, (x, bar, 10), [length * scale for length in lengths], math.inf)
    if wide:
        _text(axes, x - 12, bar, words.short(run.name, 22), "right")
        _text(axes, x + sum(lengths) * scale + 7, bar, total)
    else:
        _text(axes, x, y + 11, words.short(run.name, 34))
        _text(axes, 380, y + 11, total, "right")


def _row_in_detail(
    axes: Axes, index: int, run: Run, at: tuple[float, float], size: tuple[float, float], wide: bool
) -> None:
    """Draw a thick bar, cut at the frame's edge, with the number of each part beside it or, if narrow, around it."""
    (x, y), (span, reach), lengths = at, size, _lengths(run)
    color, total = svg.RUNS[style.colour(index)], words.number(sum(lengths))
    numbers, bar = [words.number(part) for part in parts(run)], y + (17 if wide else 32)
    _bar(axes, index, (x, bar, 22 if wide else 16), [length * span / reach for length in lengths], span)
    if wide:
        _text(axes, x - 12, bar, words.short(run.name, 18), "right", 13, color, "bold")
        for column, number in zip(_COLUMNS, numbers, strict=False):
            _text(axes, column, bar, number, "right", 13)
        _text(axes, _COLUMNS[-1], bar, total, "right", 13, weight="bold")
    else:
        _text(axes, x, y + 15, words.short(run.name, 34), "left", 12, color, "bold")
        _text(axes, 380, y + 15, f"{total} ms", "right", weight="bold")
        _text(axes, x, y + 50, " + ".join(numbers), color=svg.MUTED)


def _bar(axes: Axes, index: int, at: tuple[float, float, float], lengths: Sequence[float], end: float) -> None:
    """Stack the parts from `at` (x, y, thickness) in tints of the run's colour; two cuts mark one longer than `end`."""
    x, y, thick = at
    start = 0.0
    for length, tint in zip(lengths, _TINTS.values(), strict=True):
        shown = min(length, end - start)
        axes.barh(y, shown, thick, x + start, color=svg.RUNS[style.colour(index)], alpha=tint, linewidth=0)
        start += shown
        if length and shown < end:  # a hairline separates adjacent parts
            edge = (x + start, x + start), (y - thick / 2, y + thick / 2)
            axes.plot(*edge, color=svg.CARD, linewidth=1, solid_capstyle="butt")
    for cut in (26, 18) if sum(lengths) > end else ():
        slant = (x + end - cut - 4, x + end - cut + 4), (y + thick / 2 + 2, y - thick / 2 - 2)
        axes.plot(*slant, color=svg.CARD, linewidth=3)


def _text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    side: Literal["left", "right"] = "left",
    size: float = 12,
    color: str = svg.INK,
    weight: str = "",
) -> None:
    axes.text(x, y, text, ha=side, va="center", fontsize=size, color=color, fontweight=weight or "normal")
