"""The record of a comparison: what was run, what it reached, what it sent. Standard library only.

The laboratory writes it, the report reads it. As text it is strict JSON with the fields below, by name; a number that
is not finite (the loss of a run that diverged) is the string "NaN", "Infinity" or "-Infinity", for JSON has no such
numbers.
"""

import json
import math
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, cast, get_args, get_origin, get_type_hints

NON_FINITE = ("NaN", "Infinity", "-Infinity")
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
    note: str  # may be empty
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("a comparison needs at least one run, the dense baseline first, got none")

    @property
    def baseline(self) -> Run:
        """The dense run that the others are held against."""
        return self.runs[0]

    def crossing(self, run: Run) -> Point | None:
        """Where `run` first has a held-out loss <= the baseline's FINAL loss; None if it never does.

        The rule of the first crossing: between evaluations the curve is a straight line, and the first touch counts
        even when the curve rises again later. It holds for the baseline as well, so a baseline that dipped below its
        own final loss on the way crosses before its end. Nothing is drawn from or to a loss that is not finite: a first
        evaluation, or the first one after such a gap, that lies below the target is itself the crossing. A target that
        is not finite is reached by nobody.
        """
        target, before = self.baseline.points[-1].loss, None
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
        return json.dumps(writable(asdict(self)), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Comparison":
        """The record that `to_json` wrote. ValueError, in one sentence, for any other text."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the comparison is not JSON: {error}") from error
        return cast(Comparison, read(cls, value, "the comparison"))


def _between(before: Point, after: Point, loss: float) -> Point:
    """The point with this loss on the straight line from `before` (above it) to `after` (below it)."""
    share = (before.loss - loss) / (before.loss - after.loss)
    return Point(
        step=round(before.step + share * (after.step - before.step)),
        seconds=before.seconds + share * (after.seconds - before.seconds),
        sent_bytes=round(before.sent_bytes + share * (after.sent_bytes - before.sent_bytes)),
        loss=loss,
    )


def writable(value: Any) -> Any:
    """The same nest with each number that JSON lacks as its name."""
    if isinstance(value, dict):
        return {key: writable(item) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, tuple):
        return [writable(item) for item in cast(tuple[Any, ...], value)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def read(kind: Any, value: Any, where: str) -> Any:
    """`value`, out of JSON, as a `kind`: a dataclass, a tuple of one kind, a dict of text, text or a number."""
    if is_dataclass(kind):
        _must(isinstance(value, dict), where, "an object", value)
        wanted = get_type_hints(kind)
        if odd := sorted(wanted.keys() ^ value.keys()):
            raise ValueError(f"{where} {'lacks' if odd[0] in wanted else 'has an unknown field'} {odd[0]!r}")
        return cast(Any, kind)(**{name: read(each, value[name], f"{where}: {name}") for name, each in wanted.items()})
    if get_origin(kind) is tuple:
        _must(isinstance(value, list), where, "a list", value)
        return tuple(read(get_args(kind)[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if get_origin(kind) is dict:
        _must(isinstance(value, dict), where, "an object", value)
        return {key: read(str, item, f"{where}[{key!r}]") for key, item in value.items()}
    if kind is str:
        _must(isinstance(value, str), where, "text", value)
        return value
    if kind is int:
        _must(isinstance(value, int) and not isinstance(value, bool), where, "a whole number", value)
        return value
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023
    _must(isinstance(value, float) or whole or value in NON_FINITE, where, "a number", value)
    return float(value)


def _must(holds: bool, where: str, wanted: str, value: object) -> None:
    """ValueError unless it `holds`: one sentence that names the place, the kind wanted and what stood there."""
    if not holds:
        raise ValueError(f"{where} must be {wanted}, got {str(value)[:60]!r}")
