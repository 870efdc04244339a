"""The timings of a run's steps, and how they split into compute, selection and wire."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradwire.lab.comparison.record import Split


@dataclass
class StepTimes:
    """Timings of every step on this rank.

    period: steps of a round; figures of a step are medians of averages over whole rounds. steps: seconds of each step.
    optimizing: seconds of the optimizer without exchanges. exchanging: seconds of exchanges inside `optimizer.step`.
    """

    period: int
    steps: list[float] = field(default_factory=list[float])
    optimizing: list[float] = field(default_factory=list[float])
    exchanging: list[float] = field(default_factory=list[float])

    def note(self, step: float, optimizing: float, exchanging: float) -> None:
        """Record a step's seconds."""
        self.steps.append(step)
        self.optimizing.append(optimizing)
        self.exchanging.append(exchanging)

    def quantiles(self) -> tuple[float, float, float]:
        """Seconds of a step: the 10th percentile, the median, the 90th percentile."""
        steps = rounds(self.steps, self.period)
        deciles = statistics.quantiles(steps, n=10) if len(steps) > 1 else steps * 9
        return deciles[0], statistics.median(steps), deciles[-1]

    def split(self, compute: float, selecting: float) -> Split:
        """Split the median step.

        compute: seconds of forward and backward without a network. selecting: seconds of all steps that were spent on
        selecting and encoding. If exchanges run inside the optimizer's step, their time is known and not hidden.
        Otherwise all time that is neither compute nor selection counts as wire.
        """
        step = statistics.median(rounds(self.steps, self.period))
        if whole := sum(self.exchanging):
            exposed = min(step, statistics.median(rounds(self.exchanging, self.period)))
            selection = exposed * min(1.0, selecting / whole)
            return Split(step - exposed, selection, exposed - selection)
        work = min(step, compute + statistics.median(self.optimizing))
        selection = min(step - work, selecting / len(self.steps))
        return Split(work, selection, step - work - selection)


def rounds(seconds: Sequence[float], period: int) -> list[float]:
    """Average seconds over each whole round of `period` steps, or over all steps if there is no whole round."""
    whole = len(seconds) - len(seconds) % period
    if not whole:
        return [statistics.fmean(seconds)]
    return [statistics.fmean(seconds[first : first + period]) for first in range(0, whole, period)]
