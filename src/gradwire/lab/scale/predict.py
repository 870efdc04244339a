"""Predict steps from rehearsed work: rank methods by number of workers and link, and find where the winner changes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from gradwire.lab import records
from gradwire.lab.scale.plan import ScalePlan
from gradwire.lab.scale.work import Work


@dataclass(frozen=True)
class Prediction:
    """The prediction for a method on a link: seconds of the collectives of an exchange, and of a step.

    No communication is assumed to overlap with computing. `step` is inf if the method could not be rehearsed.
    """

    work: Work
    rate: str
    wire: float
    step: float


@dataclass(frozen=True)
class Forecast:
    """The rehearsed work of a plan, and the seconds of a step without a network."""

    plan: ScalePlan
    compute: float
    parameters: int
    works: tuple[Work, ...]
    versions: dict[str, str] = field(default_factory=records.platform_versions)

    @property
    def every_step(self) -> bool:
        """Whether any method exchanges at every step."""
        return any(work.every == 1 for work in self.works)

    def to_json(self) -> str:
        """Write strict JSON; `from_json` returns an equal record."""
        return records.to_json(self, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Forecast:
        """Read a record that `to_json` wrote; ValueError, in one sentence, for any other text."""
        return records.from_json(cls, text, "the sheet")


def predictions(sheet: Forecast, rate: str, size: int) -> list[Prediction]:
    """Predict every method at a number of workers, the fastest first; methods that do not run come last."""
    network = sheet.plan.network(rate)
    found: list[Prediction] = []
    for work in sheet.works:
        if work.size == size:
            wire = work.wire(network)
            step = sheet.compute + (work.selection + wire + work.decode) / work.every
            found.append(Prediction(work, rate, wire, math.inf if work.refusal else step))
    return sorted(found, key=lambda one: one.step)


def best(sheet: Forecast, rate: str, size: int, *, every_step: bool = False) -> Prediction:
    """The fastest method, or with `every_step` the fastest that exchanges at every step.

    Raises:
        ValueError: there is no such method.
    """
    for one in predictions(sheet, rate, size):
        if not every_step or one.work.every == 1:
            return one
    raise ValueError(f"no method of this sheet exchanges at every step among {size} workers")


def crossovers(sheet: Forecast) -> list[str]:
    """Sentences that name the numbers of workers between which another method becomes the fastest.

    Only methods that exchange at every step are compared.
    """
    found: list[str] = []
    if not sheet.every_step:
        return found
    for rate in sheet.plan.rates:
        winners = [best(sheet, rate, size, every_step=True) for size in sheet.plan.sizes]
        for one, two in pairwise(winners):
            if one.work.method != two.work.method and math.isfinite(one.step) and math.isfinite(two.step):
                where = f"at {rate}, between {one.work.size} and {two.work.size} workers"
                found.append(f"{where}: {two.work.method} overtakes {one.work.method}")
    return found
