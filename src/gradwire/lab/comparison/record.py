"""The record of a comparison: what was run, what it reached, what it sent.

The laboratory writes it, the report reads it. As text it is strict JSON with the fields below, by name.
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
    sent_bytes: int  # what this rank's link carried so far: the kernel's tx_bytes; on loopback the ledger's traffic
    loss: float  # held-out, nats per byte


@dataclass(frozen=True)
class Split:
    """Where the time of one step goes: the median seconds of each part."""

    compute: float
    selection: float
    wire: float


@dataclass(frozen=True)
class Run:
    """One way of averaging gradients, trained for the comparison's budget; its last point is its last step."""

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
        """Bytes of protocol headers on the link, whole run: one header per packet.

        With segmentation offload a packet holds up to 64 KB under one header. The kernel counts bytes and packets both
        before that is cut into frames, so they agree with each other, and neither knows the headers of the frames.
        """
        return HEADER_BYTES * self.link_packets

    @property
    def link_payload(self) -> int:
        """Bytes on the link less the headers, whole run: to be held against `ledger_bytes`."""
        return self.link_bytes - self.headers


@dataclass(frozen=True)
class Comparison:
    """Several runs under one budget of seconds on one link; the first run is the dense baseline."""

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
        """The dense run that the others are held against."""
        return self.runs[0]

    @property
    def noise(self) -> float | None:
        """How far one evaluation of the baseline is from its trend, nats; None with fewer than six finite evaluations.

        Of the last two thirds of its evaluations, at least five: the root mean square of their third differences over
        sqrt(20), which is the standard deviation of independent deviations from any parabola.
        """
        losses = [point.loss for point in self.baseline.points]
        late = losses[-max(5, 2 * len(losses) // 3) :]
        if len(losses) < 6 or not all(map(math.isfinite, late)):
            return None
        third = [d - 3 * c + 3 * b - a for a, b, c, d in zip(late, late[1:], late[2:], late[3:], strict=False)]
        return math.sqrt(sum(each * each for each in third) / len(third) / 20)

    def crossing(self, run: Run, above: float = 0.0) -> Point | None:
        """Where `run` first has a held-out loss <= the baseline's FINAL loss; None if it never does.

        above: nats to add to that loss.

        The rule of the first crossing: between evaluations the curve is a straight line, and the first touch counts
        even when the curve rises again later. It holds for the baseline as well, so a baseline that dipped below its
        own final loss on the way crosses before its end. Nothing is drawn from or to a loss that is not finite: a first
        evaluation, or the first one after such a gap, that lies below the target is itself the crossing. A target that
        is not finite is never reached.
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
        """When `run` first reaches the baseline's FINAL held-out loss, by `crossing`'s rule; None if never."""
        point = self.crossing(run)
        return None if point is None else point.seconds

    def speedup(self, run: Run) -> float | None:
        """The baseline's total seconds / `seconds_to_baseline(run)`; None if never, or at 0 s, before any training."""
        seconds = self.seconds_to_baseline(run)
        return self.baseline.points[-1].seconds / seconds if seconds else None

    def to_json(self) -> str:
        """Strict JSON; `Comparison.from_json` gives an equal record back."""
        return records.to_json(self, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """The record that `to_json` wrote. ValueError, in one sentence, for any other text."""
        return records.from_json(cls, text, "the comparison")


def _between(before: Point, after: Point, loss: float) -> Point:
    """The point with this loss on the straight line from `before` (above it) to `after` (below it)."""
    share = (before.loss - loss) / (before.loss - after.loss)
    return Point(
        step=round(before.step + share * (after.step - before.step)),
        seconds=before.seconds + share * (after.seconds - before.seconds),
        sent_bytes=round(before.sent_bytes + share * (after.sent_bytes - before.sent_bytes)),
        loss=loss,
    )
