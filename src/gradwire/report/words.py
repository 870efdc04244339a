"""The report's winner, and its numbers in words."""

import math

from gradwire.lab.comparison.record import Comparison, Run

SOONER = 1.005  # below this a speed-up reads "1.00": not sooner
TIMES = "\N{MULTIPLICATION SIGN}"


def winner(comparison: Comparison) -> Run | None:
    """The run that reached the baseline's final loss soonest, sooner than itself; one that stayed there goes first."""
    own = comparison.speedup(comparison.baseline) or 0.0
    speedups = [(stayed(comparison, run), comparison.speedup(run) or 0.0, run) for run in comparison.runs[1:]]
    sooner = [each for each in speedups if each[1] >= SOONER and each[1] > own]
    return max(sooner, key=lambda each: each[:2])[2] if sooner else None


def stayed(comparison: Comparison, run: Run) -> bool:
    """Whether the run ended at the baseline's final loss or below it."""
    return run.points[-1].loss <= comparison.baseline.points[-1].loss


def reached(comparison: Comparison, run: Run) -> str:
    """ "19.1 s"; "≤ 5 s" when the first evaluation is already there; or "never"."""
    point = comparison.crossing(run)
    if point is None:
        return "never"
    return f"{'≤ ' if point == run.points[0] else ''}{number(point.seconds)} s"


def speedup(comparison: Comparison, run: Run) -> str:
    """ "6.3"; "≥ 6.3" when the first evaluation is already there; "" where there is none."""
    ratio = comparison.speedup(run)
    return f"{'≥ ' if comparison.crossing(run) == run.points[0] else ''}{factor(ratio)}" if ratio else ""


def factor(ratio: float) -> str:
    """A ratio without its sign: 1.38, 6.3, 27, 1,380."""
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}" if ratio < 20 else f"{ratio:,.0f}"


def loss(loss: float) -> str:
    """A loss in nats per byte: 2.138; "not finite" where it is not."""
    return "not finite" if not math.isfinite(loss) else f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.3g}"


def number(value: float) -> str:
    """Three digits, or the whole number: 0.0138, 1.38, 13.8, 138, 1,380; 60."""
    if not math.isfinite(value):
        return "not finite"
    whole = value == round(value) or abs(value) >= 100
    return f"{value:,.0f}" if whole else f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def short(name: str, longest: int) -> str:
    """The name, cut to at most `longest` characters, the last of them an ellipsis."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
