"""The record of a benchmark: the time of a step and its parts, by method, link and number of ranks."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass

from gradwire.lab import records
from gradwire.lab.ways import AUTO_DENSE, NONE, is_torch

DERIVED = ("exposed_selection", "exposed_wire", "exposed_wait", "other", "to_none", "to_dense")
"""Columns of the CSV that are computed from the measured ones."""


@dataclass(frozen=True)
class Model:
    """The trained model."""

    name: str
    parameters: int  # elements that are averaged
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class Measured:
    """One method on one link: seconds, bytes and counts of one step, medians or means over the timed steps.

    With local steps, a step is the mean of a round's steps, over the timed rounds.

    A step begins on all ranks at once and ends with the slowest. compute: the median step of "none" in the same run.
    selection: time on gradients outside the network, the mean over the ranks. wire: for every collective, the shortest
    time that a rank spent in it. wait: the further time that ranks spent in it on average, waiting for a slower peer.
    For torch's own methods only the step is known, so all time beside compute counts as wire.
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
        """Seconds that averaging adds to a step; at least 0, as a negative value would be noise."""
        return max(0.0, self.step - self.compute)

    @property
    def hidden(self) -> float:
        """Seconds of selection, wire and wait that overlap with backward; negative if a step exceeds its parts.

        It then contains copies, and time in which the hook's thread and backward shared a core.
        """
        return self.selection + self.wire + self.wait - (self.step - self.compute)

    @property
    def exposed(self) -> tuple[float, float, float, float]:
        """The parts of `added`: selection, wire, wait, other. Hidden time is subtracted from wire, then from wait."""
        left, parts = self.added, list[float]()
        for part in (self.selection, self.wait, self.wire):
            parts.append(min(part, left))
            left -= parts[-1]
        selection, wait, wire = parts
        return selection, wire, wait, left

    @property
    def apart(self) -> bool:
        """Whether the parts of the time beside compute are known."""
        return not is_torch(self.method) and self.method not in (NONE, AUTO_DENSE)


@dataclass(frozen=True)
class Sheet:
    """All measurements of a benchmark."""

    models: tuple[Model, ...]
    measured: tuple[Measured, ...]
    bucket_mb: float  # of gradwire's methods
    command: str
    versions: dict[str, str]
    note: str  # may be empty

    def __post_init__(self) -> None:
        if not self.measured:
            raise ValueError("a sheet needs at least one measurement, got none")

    def of(self, one: Measured, method: str) -> Measured | None:
        """Another method's measurement in the same run; None if it was not measured."""
        place = one.model, one.link, one.ranks
        same = (other for other in self.measured if (other.model, other.link, other.ranks) == place)
        return next((other for other in same if other.method == method), None)

    def ratio(self, one: Measured, method: str) -> float:
        """This step divided by another method's in the same run; NaN if that was not measured."""
        other = self.of(one, method)
        return one.step / other.step if other else math.nan

    def cells(self) -> dict[tuple[str, str, int], tuple[Measured, ...]]:
        """The measurements by model, link and number of ranks, in the order in which they were made."""
        found: dict[tuple[str, str, int], tuple[Measured, ...]] = {}
        for one in self.measured:
            place = one.model, one.link, one.ranks
            found[place] = (*found.get(place, ()), one)
        return found

    def to_json(self) -> str:
        """Write strict JSON; `Sheet.from_json` returns an equal record."""
        return records.to_json(self, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Sheet:
        """Read a record that `to_json` wrote; ValueError, in one sentence, for any other text."""
        return records.from_json(cls, text, "the sheet")

    def to_csv(self) -> str:
        """Write CSV: a line for every measurement, the derived columns last, a field empty if there is no figure."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*asdict(self.measured[0]), "hidden", *DERIVED])
        for one in self.measured:
            selection, wire, wait, other = one.exposed
            figures = one.hidden, selection, wire, wait, other, self.ratio(one, NONE), self.ratio(one, "dense")
            table.writerow([*asdict(one).values(), *("" if math.isnan(figure) else figure for figure in figures)])
        return text.getvalue()
