"""The figures of losses: every run's held-out loss against time or megabytes sent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradwire.lab.comparison.record import Comparison, Run
from gradwire.report import labels, style, svg, view, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(comparison: Comparison, across: view.Across, wide: bool) -> Figure:
    """Draw every run's held-out loss with a label, the dashed target, and a ring where a run first reaches it."""
    from matplotlib.figure import Figure

    width, left, right = (1080, 36, 216) if wide else (380, 28, 130)
    height = max(430 if wide else 350, 36 * len(comparison.runs) + 84)
    figure = Figure((width / 72, height / 72), dpi=72)  # one unit is one CSS pixel
    box = (left / width, 50 / height, (width - left - right) / width, (height - 74) / height)
    axes = figure.add_axes(box, ylim=view.loss_limits(comparison)[:2])
    size = 12.5 if wide else 11
    axes.set_xlabel(across.label, fontsize=size, labelpad=7)
    figure.text(0, 1 - 6 / height, "nats per byte", fontsize=size, color=svg.MUTED, va="top")
    axes.grid(axis="y")
    axes.tick_params(labelsize=size)
    for index, run in enumerate(comparison.runs):
        _curve(axes, comparison, index, run, across)
    _scale_across(axes, across, wide)
    target = comparison.baseline.points[-1].loss
    if math.isfinite(target):
        axes.axhline(target, color=svg.RUNS[0], linewidth=1.2, linestyle=(0, (4, 3)), zorder=1.5)
    labels.label_ends(axes, comparison, across, wide)
    return figure


def _scale_across(axes: Axes, across: view.Across, wide: bool) -> None:
    """Scale the x axis, with plain numbers as tick labels, and fix its limits."""
    from matplotlib.ticker import LogLocator

    if across.log:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        dense = math.log10(high / low) < (5 if wide else 2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if dense else (1,)))
        axes.minorticks_off()
    axes.set_xlim(axes.get_xlim() if across.log else (0, axes.get_xlim()[1]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _curve(axes: Axes, comparison: Comparison, index: int, run: Run, across: view.Across) -> None:
    """Draw one run: a line through all evaluations, with gaps where the loss is not finite, and its ring."""
    crossing, points = comparison.crossing(run), view.drawable(run, across)
    if crossing and crossing not in points and across.x(crossing) > 0:
        # added to the line, so that the ring lies on it also with a log axis
        points = sorted((*points, crossing), key=lambda point: point.seconds)
    best, color = run is words.winner(comparison), svg.RUNS[style.colour(index)]
    x, y = [across.x(point) for point in points], [point.loss for point in points]
    marker = "o" if len(points) <= 3 else ""
    dash = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))[(index - 1) // (len(style.PALETTE) - 1) % 3 if index else 0]
    width = 3.6 if best else 1.8  # the wide line lies below, so that both show where two coincide
    axes.plot(
        x, y, color=color, linewidth=width, linestyle=dash, marker=marker, markersize=4, zorder=1.8 if best else 2
    )
    if crossing in points and index:
        size, edge = (10, 2.4) if best else (8, 1.8)
        axes.plot(across.x(crossing), crossing.loss, "o", color=color, mfc=svg.CARD, ms=size, mew=edge, zorder=4)
