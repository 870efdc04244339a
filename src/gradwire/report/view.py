"""What the figures of losses show: the two x axes, the points that have a place on them, the losses in view."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from gradwire.lab.comparison.record import Comparison, Point, Run
from gradwire.report import words


@dataclass(frozen=True)
class Across:
    """What a figure of losses has on its x axis."""

    label: str
    x: Callable[[Point], float]
    log: bool
    note: Callable[[Comparison, Run], str]  # the second line of a run's label


def _seconds_note(comparison: Comparison, run: Run) -> str:
    """ "19.1 s, 6.3× sooner", "never, ends at 2.310"; of the baseline its final loss."""
    last = run.points[-1].loss
    if run is comparison.baseline:
        return f"final loss {words.loss(last)}"
    if not comparison.crossing(run) or not math.isfinite(last):
        return f"{words.reached(comparison, run)}, {'ends at' if math.isfinite(last) else 'then'} {words.loss(last)}"
    sooner = (comparison.speedup(run) or 0.0) >= words.SOONER
    factor = f", {words.speedup(comparison, run)}{words.TIMES} sooner" if sooner else ""
    return words.reached(comparison, run) + factor


def _megabytes_note(comparison: Comparison, run: Run) -> str:
    """ "4.75 MB, 27× less" or "never"; of the baseline all that it sent."""
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
    """The points that have a place on this axis: a logarithmic one has none for zero."""
    return [point for point in run.points if across.x(point) > 0 or not across.log]


def loss_limits(comparison: Comparison) -> tuple[float, float, bool]:
    """The losses in view, and whether some are not: a steep first fall must not press the part of interest flat."""
    losses = [[point.loss for point in run.points if math.isfinite(point.loss)] for run in comparison.runs]
    losses = [each for each in losses if each]
    if not losses:
        return 0.0, 1.0, False
    low, worst, lasts = min(map(min, losses)), max(map(max, losses)), [each[-1] for each in losses]
    start = max(each[0] for each in losses)  # a run that blows up leaves through the top
    wanted = max(lasts[0] + 3 * (lasts[0] - low), low + 1.5 * (max(lasts) - low), (low + start) / 2)
    high = min(start, wanted)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin, worst > high + margin
