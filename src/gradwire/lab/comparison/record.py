"""The record of a comparison: its runs, their losses, and the bytes they sent.

The laboratory writes it and the report reads it. As text it is strict JSON with the fields below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradwire.lab import records

HEADER_BYTES = 66  # of a packet on the link: Ethernet 14, IPv4 20, TCP with timestamps 32


@dataclass(frozen=True)
class Point:
    """One evaluation on held-out text."""

    step: int
    seconds: float  # training wall-clock so far, evaluation time excluded
    sent_bytes: int  # sent by this rank so far: the kernel's tx_bytes of its link; on loopback, the ledger's traffic
    loss: float  # held-out, nats per byte


@dataclass(frozen=True)
class Split:
    """The median seconds of each part of a step."""

    compute: float
    selection: float
    wire: float


@dataclass(frozen=True)
class Run:
    """One method of averaging, trained for the comparison's budget; its last point is its last step."""

    name: str  # "EF(DEFT) 1 %"
    spec: str  # "ef(deft(density=0.01))" or "torch: fp16_compress_hook"
    points: tuple[Point, ...]
    split: Split
    step_seconds: float  # median
    step_seconds_low: float  # 10th percentile
    step_seconds_high: float  # 90th percentile
    ledger_bytes: int  # payload by gradwire's (or the tensors') own count, per rank, whole run
    link_bytes: int  # the kernel's tx_bytes of the rank's interface, whole run; 0 when there is none
    link_packets: int  # packets the kernel sent on that interface, whole run; 0 when there is none

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError(f"run {self.name!r} needs at least one point, got none")
        for point in self.points:
            if not 0 <= point.seconds < math.inf:
                raise ValueError(f"run {self.name!r}: a point's seconds must be finite and not negative, got {point}")
        for before, after in zip(self.points, self.points[1:], strict=False):
            if after.seconds < before.seconds or after.step < before.step:
                raise ValueError(f"run {self.name!r}: points must be in order of time, got {before} before {after}")

    @property
    def headers(self) -> int:
        """Bytes of protocol headers on the link in the whole run: one header per packet.

        With segmentation offload, a packet holds up to 64 KB under one header. The kernel counts both bytes and packets
        before packets are cut into frames, so the two are consistent; the headers of frames are in neither.
        """
        return HEADER_BYTES * self.link_packets

    @property
    def link_payload(self) -> int:
        """Bytes on the link less headers in the whole run, for comparison with `ledger_bytes`."""
        return self.link_bytes - self.headers


@dataclass(frozen=True)
class Comparison:
    """Several runs with the same budget of seconds on the same link; the first run is the dense baseline."""

    title: str
    model: str
    corpus: str
    link: str  # "100 Mbit/s between network namespaces" or "loopback (the kernel refused namespaces: ...)"
    ranks: int
    budget_seconds: float
    command: str
    versions: dict[str, str]
    note: str  # remarks, a line each; may be empty
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("a comparison needs at least one run, the dense baseline first, got none")

    @property
    def baseline(self) -> Run:
        """The dense run with which the others are compared."""
        return self.runs[0]

    @property
    def noise(self) -> float | None:
        """The standard deviation, in nats, of the baseline's evaluations from their trend.

        It is the root mean square of third differences divided by sqrt(20), which is exact for independent deviations
        from any parabola, over the last two thirds of the evaluations, at least five. None with fewer than six
        evaluations, or if a loss among them is not finite.
        """
        losses = [point.loss for point in self.baseline.points]
        late = losses[-max(5, 2 * len(losses) // 3) :]
        if len(losses) < 6 or not all(map(math.isfinite, late)):
            return None
        third = [d - 3 * c + 3 * b - a for a, b, c, d in zip(late, late[1:], late[2:], late[3:], strict=False)]
        return math.sqrt(sum(each * each for each in third) / len(third) / 20)

    def crossing(self, run: Run, above: float = 0.0) -> Point | None:
        """The point at which `run` first has a held-out loss <= the baseline's FINAL loss; None if it never does.

        above: nats to add to that loss.

        Losses are interpolated linearly between evaluations, and the first crossing counts even if the loss rises again
        later. The rule also holds for the baseline, so a baseline that dipped below its own final loss crosses before
        its end. There is no interpolation from or to a loss that is not finite: if the first evaluation, or the first
        one after such a gap, is below the target, it is itself the crossing. A target that is not finite is never
        reached.
        """
        target, before = self.baseline.points[-1].loss + above, None
        if not math.isfinite(target):
            return None
        for point in run.points:
            if math.isfinite(point.loss) and point.loss <= target:
                return point if before is None or point.loss == target else _between(before, point, target)
            before = point if math.isfinite(point.loss) else None
        return None

    def seconds_to_baseline(self, run: Run) -> float | None:
        """The seconds until `run` first reaches the baseline's FINAL held-out loss, as in `crossing`; None if never."""
        point = self.crossing(run)
        return None if point is None else point.seconds

    def speedup(self, run: Run) -> float | None:
        """The baseline's total seconds / `seconds_to_baseline(run)`; None if that is None, or 0 s (before training)."""
        seconds = self.seconds_to_baseline(run)
        return self.baseline.points[-1].seconds / seconds if seconds else None

    def to_json(self) -> str:
        """Write strict JSON; `Comparison.from_json` returns an equal record."""
        return records.to_json(self, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """Read a record that `to_json` wrote; ValueError, in one sentence, for any other text."""
        return records.from_json(cls, text, "the comparison")


def _between(before: Point, after: Point, loss: float) -> Point:
    """Interpolate the point with this loss between `before`, which is above it, and `after`, which is below it."""
    fraction = (before.loss - loss) / (before.loss - after.loss)
    return Point(
        step=round(before.step + fraction * (after.step - before.step)),
        seconds=before.seconds + fraction * (after.seconds - before.seconds),
        sent_bytes=round(before.sent_bytes + fraction * (after.sent_bytes - before.sent_bytes)),
        loss=loss,
    )
