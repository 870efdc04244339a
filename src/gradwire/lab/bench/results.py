"""The record of a benchmark: what a step costs and where its time goes, per method, link and number of ranks."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass

from gradwire.lab import records
from gradwire.lab.ways import AUTO_DENSE, NONE, is_torch

DERIVED = ("exposed_selection", "exposed_wire", "exposed_wait", "other", "to_none", "to_dense")
"""Columns of the CSV that follow from the measured ones."""


@dataclass(frozen=True)
class Model:
    """What was trained."""

    name: str
    parameters: int  # elements that are averaged
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class Measured:
    """One method on one link: seconds, bytes and counts of one step, the median or the mean over the timed steps.

    Of local steps: the mean step of a round, over the timed rounds.

    A step begins on all ranks at once and ends with the last. compute: the median step of "none" in the same run.
    selection: on gradients outside the network, the mean over the ranks. wire: of every collective the shortest time
    that a rank spent in it. wait: what the ranks spent there beyond that, on average: a slower peer. For torch's
    own ways only the step is known, so all that is not compute is called wire.
    """

    model: str
    link: str  # "100mbit", "loopback", "the network as it is"
    ranks: int
    method: str
    steps: int  # timed
    step: float  # seconds, median
    step_low: float  # 10th percentile
    step_high: float  # 90th percentile
    compute: float
    selection: float
    wire: float
    wait: float
    sent_bytes: float  # a step and rank, counted from tensors
    tx_bytes: float  # a step and rank, by the kernel's count; 0 where the link has no counter of its own

    @property
    def added(self) -> float:
        """Seconds that averaging adds to a step; never less than nothing, which would be noise."""
        return max(0.0, self.step - self.compute)

    @property
    def hidden(self) -> float:
        """Seconds of selection, wire and wait that lie under backward; negative where a step is longer than its parts.

        The rest is copying, and the hook's thread and backward sharing a core.
        """
        return self.selection + self.wire + self.wait - (self.step - self.compute)

    @property
    def exposed(self) -> tuple[float, float, float, float]:
        """The parts of `added`: selection, wire, wait, other. Hidden time is taken off wire first, then off wait."""
        left, parts = self.added, list[float]()
        for part in (self.selection, self.wait, self.wire):
            parts.append(min(part, left))
            left -= parts[-1]
        selection, wait, wire = parts
        return selection, wire, wait, left

    @property
    def apart(self) -> bool:
        """Whether the time beside compute is known in parts."""
        return not is_torch(self.method) and self.method not in (NONE, AUTO_DENSE)


@dataclass(frozen=True)
class Sheet:
    """Everything that a benchmark has measured."""

    models: tuple[Model, ...]
    measured: tuple[Measured, ...]
    bucket_mb: float  # of gradwire's ways
    command: str
    versions: dict[str, str]
    note: str  # may be empty

    def __post_init__(self) -> None:
        if not self.measured:
            raise ValueError("a sheet needs at least one measurement, got none")

    def of(self, one: Measured, method: str) -> Measured | None:
        """What another method measured in the same run."""
        place = one.model, one.link, one.ranks
        same = (other for other in self.measured if (other.model, other.link, other.ranks) == place)
        return next((other for other in same if other.method == method), None)

    def ratio(self, one: Measured, method: str) -> float:
        """This step over another method's in the same run: below one is faster. NaN where that was not measured."""
        other = self.of(one, method)
        return one.step / other.step if other else math.nan

    def cells(self) -> dict[tuple[str, str, int], tuple[Measured, ...]]:
        """The measurements by model, link and ranks, in the order of measuring."""
        found: dict[tuple[str, str, int], tuple[Measured, ...]] = {}
        for one in self.measured:
            place = one.model, one.link, one.ranks
            found[place] = (*found.get(place, ()), one)
        return found

    def to_json(self) -> str:
        """Strict JSON; `Sheet.from_json` gives an equal record back."""
        return records.to_json(self, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Sheet:
        """The record that `to_json` wrote. ValueError, in one sentence, for any other text."""
        return records.from_json(cls, text, "the sheet")

    def to_csv(self) -> str:
        """A line for every measurement, the derived columns last; an empty field where there is no such figure."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*asdict(self.measured[0]), "hidden", *DERIVED])
        for one in self.measured:
            selection, wire, wait, other = one.exposed
            figures = one.hidden, selection, wire, wait, other, self.ratio(one, NONE), self.ratio(one, "dense")
            table.writerow([*asdict(one).values(), *("" if math.isnan(figure) else figure for figure in figures)])
        return text.getvalue()
