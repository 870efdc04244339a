"""What the figures of losses show: the two x axes, the points that can be drawn on them, and the range of losses."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from gradwire.lab.comparison.record import Comparison, Point, Run
from gradwire.report import words


@dataclass(frozen=True)
class Across:
    """The x axis of a figure of losses."""

    label: str
    x: Callable[[Point], float]
    log: bool
    note: Callable[[Comparison, Run], str]  # the second line of a run's label


def _seconds_note(comparison: Comparison, run: Run) -> str:
    """A label such as "19.1 s, 6.3× sooner" or "never, ends at 2.310"; the final loss for the baseline."""
    last = run.points[-1].loss
    if run is comparison.baseline:
        return f"final loss {words.loss(last)}"
    if not comparison.crossing(run) or not math.isfinite(last):
        return f"{words.reached(comparison, run)}, {'ends at' if math.isfinite(last) else 'then'} {words.loss(last)}"
    sooner = (comparison.speedup(run) or 0.0) >= words.SOONER
    factor = f", {words.speedup(comparison, run)}{words.TIMES} sooner" if sooner else ""
    return words.reached(comparison, run) + factor


def _megabytes_note(comparison: Comparison, run: Run) -> str:
    """A label such as "4.75 MB, 27× less" or "never"; all bytes sent for the baseline."""
    here, total = comparison.crossing(run), comparison.baseline.points[-1].sent_bytes
    if run is comparison.baseline:
        return f"{words.number(total / 1e6)} MB in all"
    if not here:
        return "never"
    less = 0 < here.sent_bytes * words.SOONER <= total
    factor = f", {words.factor(total / here.sent_bytes)}{words.TIMES} less" if less else ""
    return f"{words.number(here.sent_bytes / 1e6)} MB{factor}"


SECONDS = Across("seconds of training", lambda point: point.seconds, False, _seconds_note)
MEGABYTES = Across("MB sent by one rank (log scale)", lambda point: point.sent_bytes / 1e6, True, _megabytes_note)


def drawable(run: Run, across: Across) -> list[Point]:
    """The points that can be drawn on an axis; a logarithmic one excludes zero."""
    return [point for point in run.points if across.x(point) > 0 or not across.log]


def loss_limits(comparison: Comparison) -> tuple[float, float, bool]:
    """The range of losses to show, and whether some lie above it.

    The start of a steep first fall is cut off, so that the part of interest is not flattened.
    """
    losses = [[point.loss for point in run.points if math.isfinite(point.loss)] for run in comparison.runs]
    losses = [each for each in losses if each]
    if not losses:
        return 0.0, 1.0, False
    low, worst, lasts = min(map(min, losses)), max(map(max, losses)), [each[-1] for each in losses]
    start = max(each[0] for each in losses)  # a diverging run may leave through the top
    wanted = max(lasts[0] + 3 * (lasts[0] - low), low + 1.5 * (max(lasts) - low), (low + start) / 2)
    high = min(start, wanted)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin, worst > high + margin
