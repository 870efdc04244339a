"""Labels beside the ends of lines, moved apart where they would overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradwire.lab.comparison.record import Comparison
from gradwire.report import style, svg, view, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def label_ends(axes: Axes, comparison: Comparison, across: view.Across, wide: bool) -> None:
    """Draw each run's name and note beside the end of its line, joined to it by a dotted leader."""
    box, fraction = axes.get_window_extent(), axes.transAxes
    to_fraction = (axes.transData - fraction).transform
    ends: list[tuple[float, float]] = []
    for run in comparison.runs:
        last = next((point for point in reversed(view.drawable(run, across)) if math.isfinite(point.loss)), None)
        x, y = to_fraction((across.x(last), last.loss)) if last else (math.nan, 1.0)
        ends.append((float(x), min(max(float(y), 0.0), 1.0)))
    gap, size, longest = (36, 13, 23) if wide else (31, 11, 15)
    heights = spread([y for _, y in ends], gap / box.height)
    for index, (run, (x, y), height) in enumerate(zip(comparison.runs, ends, heights, strict=True)):
        color, name, note = svg.RUNS[style.colour(index)], words.short(run.name, longest), across.note(comparison, run)
        bend, end, text = (1 + pixels / box.width for pixels in (2, 14, 19))
        if math.isfinite(x):
            axes.plot((x, bend, end), (y, y, height), ":", color=color, linewidth=1, transform=fraction, clip_on=False)
            axes.plot(x, y, "o", color=color, markersize=4.5, transform=fraction, clip_on=False)
        upper, lower = height + 8 / box.height, height - 8 / box.height
        axes.text(text, upper, name, va="center", fontsize=size, color=color, fontweight="bold", transform=fraction)
        axes.text(text, lower, note, va="center", fontsize=size - 1, transform=fraction)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move heights in [0, 1] as little as possible so that they are at least `gap` apart, in the same order."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(gap, 1 / max(1, len(order) - 1))
    # Isotonic regression by pooling adjacent violators: (mean of the wanted heights less their gaps, count).
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, count = wanted[index] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, many = blocks.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    top = 1 - (len(order) - 1) * gap
    heights = {index: min(max(flat[rank], 0.0), top) + rank * gap for rank, index in enumerate(order)}
    return [heights[index] for index in range(len(wanted))]
