"""Where the seconds of a run's steps went."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradwire.lab.comparison.record import Split


@dataclass
class StepTimes:
    """Seconds of every step on this rank, of the optimizer in it, and of exchanges inside the optimizer's step.

    period: steps of a round. Figures of a step are averages over whole rounds, and their median.
    """

    period: int
    steps: list[float] = field(default_factory=list[float])
    optimizing: list[float] = field(default_factory=list[float])
    exchanging: list[float] = field(default_factory=list[float])

    def note(self, step: float, optimizing: float, exchanging: float) -> None:
        """Note a step."""
        self.steps.append(step)
        self.optimizing.append(optimizing)
        self.exchanging.append(exchanging)

    def quantiles(self) -> tuple[float, float, float]:
        """Seconds of a step: the 10th percentile, the median, the 90th percentile."""
        steps = rounds(self.steps, self.period)
        deciles = statistics.quantiles(steps, n=10) if len(steps) > 1 else steps * 9
        return deciles[0], statistics.median(steps), deciles[-1]

    def split(self, compute: float, selecting: float) -> Split:
        """The parts of a step of `compute` seconds without a network; `selecting` seconds, of all, were no network's.

        Where exchanges happen inside the optimizer's step all their seconds are exposed, and known. Else what is
        neither compute nor selection is called wire.
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
    """Averages over whole rounds of `period` steps; over all steps if there is no whole one."""
    whole = len(seconds) - len(seconds) % period
    if not whole:
        return [statistics.fmean(seconds)]
    return [statistics.fmean(seconds[first : first + period]) for first in range(0, whole, period)]
