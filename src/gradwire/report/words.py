"""The winner of a comparison, and the formatting of numbers."""

import math

from gradwire.lab.comparison.record import Comparison, Run

SOONER = 1.005  # a smaller speed-up would be printed as "1.00", so it does not count
TIMES = "\N{MULTIPLICATION SIGN}"


def winner(comparison: Comparison) -> Run | None:
    """The run that reached the baseline's final loss soonest, and sooner than the baseline; None if none did.

    Runs that ended at or below that loss take precedence over runs that rose again.
    """
    own = comparison.speedup(comparison.baseline) or 0.0
    speedups = [(stayed(comparison, run), comparison.speedup(run) or 0.0, run) for run in comparison.runs[1:]]
    sooner = [each for each in speedups if each[1] >= SOONER and each[1] > own]
    return max(sooner, key=lambda each: each[:2])[2] if sooner else None


def stayed(comparison: Comparison, run: Run) -> bool:
    """Whether the run ended at the baseline's final loss or below it."""
    return run.points[-1].loss <= comparison.baseline.points[-1].loss


def reached(comparison: Comparison, run: Run) -> str:
    """When a run reached the baseline's final loss: "19.1 s", "≤ 5 s" if at its first evaluation, or "never"."""
    point = comparison.crossing(run)
    if point is None:
        return "never"
    return f"{'≤ ' if point == run.points[0] else ''}{number(point.seconds)} s"


def speedup(comparison: Comparison, run: Run) -> str:
    """A run's speed-up: "6.3", "≥ 6.3" if it got there by its first evaluation, or "" if it never did."""
    ratio = comparison.speedup(run)
    return f"{'≥ ' if comparison.crossing(run) == run.points[0] else ''}{factor(ratio)}" if ratio else ""


def factor(ratio: float) -> str:
    """Format a ratio, without the multiplication sign: 1.38, 6.3, 27, 1,380."""
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}" if ratio < 20 else f"{ratio:,.0f}"


def loss(loss: float) -> str:
    """Format a loss, such as 2.138, or "not finite"."""
    return "not finite" if not math.isfinite(loss) else f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.3g}"


def number(value: float) -> str:
    """Format a number with three digits, or in full if it is whole or at least 100: 0.0138, 1.38, 60, 1,380."""
    if not math.isfinite(value):
        return "not finite"
    whole = value == round(value) or abs(value) >= 100
    return f"{value:,.0f}" if whole else f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def short(name: str, longest: int) -> str:
    """Cut a name to at most `longest` characters; a cut name ends in an ellipsis."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
