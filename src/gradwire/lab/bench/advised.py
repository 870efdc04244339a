"""The question that `gradwire advise` answers, and the answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from gradwire import net
from gradwire.advice import CANDIDATES, LOCAL_CANDIDATES, LocalRound, Method, Verdict
from gradwire.advice.doors import DOORS
from gradwire.advice.losses import OPTIMIZERS, Known, in_words, known, ratio
from gradwire.advice.rounds import EXCHANGE, LENGTHS
from gradwire.advice.verdict import DENSE
from gradwire.checks import is_whole
from gradwire.lab import records
from gradwire.lab.bench.plan import BenchPlan
from gradwire.lab.bench.workloads import check_model
from gradwire.spec import parse


@dataclass(frozen=True)
class Question:
    """The question which of some specs pays on a model.

    candidates: the specs. bucket_mb: MiB that they exchange together. local: exchanges of differences, for predictions
    of local steps. door: "ddp", "module" or "sharded". island: number of consecutive ranks in an island; 1 for none.
    inside: the rate of links inside islands, such as "100gbit"; None to measure it. check: also measure every method,
    with up to `steps` steps in `seconds` each, and also the methods in `beside`, which are not predicted.
    """

    model: str = "mlp"
    candidates: tuple[str, ...] = CANDIDATES
    bucket_mb: float = 25.0
    check: bool = False
    beside: tuple[str, ...] = ()
    steps: int = 20
    seconds: float = 20.0
    local: tuple[str, ...] = LOCAL_CANDIDATES
    door: str = "ddp"
    island: int = 1
    inside: str | None = None

    def __post_init__(self) -> None:
        check_model(self.model)
        if self.door not in DOORS:
            raise ValueError(f"a door is one of {', '.join(DOORS)}, got {self.door!r}")
        if not is_whole(self.island) or self.island < 1:
            raise ValueError(f"an island has a whole number of ranks, at least 1, got {self.island!r}")
        if self.island == 1 and (self.inside is not None or self.door == "sharded"):
            what = f"a rate of {self.inside} inside" if self.inside is not None else "the sharded door"
            raise ValueError(f"{what} needs islands of at least 2 ranks, got islands of 1")
        if self.inside is not None:
            net.parse_rate(self.inside)
        if self.check and (self.door != "ddp" or self.inside is not None):
            what = f"the {self.door} door" if self.inside is None else f"links of {self.inside} inside islands"
            raise ValueError(f"check measures through DDP on the existing links, which excludes {what}")
        if not self.candidates or len(set(self.candidates)) < len(self.candidates):
            raise ValueError(
                f"candidates must be distinct, and at least one, got {', '.join(self.candidates) or 'none'}"
            )
        for spec in (*self.candidates, *self.local):
            parse(spec)
        self.plan(("dense", *self.beside))

    def check_ranks(self, ranks: int) -> None:
        """Raise ValueError if islands do not fill `ranks` ranks, or if there is only one."""
        if self.island > 1 and (ranks % self.island or ranks == self.island):
            raise ValueError(f"{ranks} ranks do not fill two or more islands of {self.island}")

    def plan(self, methods: tuple[str, ...]) -> BenchPlan:
        """The plan of a benchmark that measures methods on this model."""
        return BenchPlan(self.model, methods, steps=self.steps, seconds=self.seconds, bucket_mb=self.bucket_mb)


@dataclass(frozen=True)
class Probed:
    """The event that link and pace are known. compute: seconds of a step without a network."""

    compute: float


@dataclass(frozen=True)
class ToLoss:
    """A method (`way`) whose number of steps to a loss has been measured.

    seconds: of a step. ratio: steps to the loss divided by dense's; inf if it was not reached. rows: the runs that the
    ratio comes from; empty for dense.
    """

    way: str
    seconds: float
    ratio: float
    rows: tuple[Known, ...] = ()

    @property
    def to_loss(self) -> float:
        """Seconds that make as much progress towards the loss as one step of dense."""
        return self.seconds * self.ratio


@dataclass(frozen=True)
class Advised:
    """A verdict and its basis.

    compute: seconds of a step without a network. alpha, beta: seconds a call and bytes a second, by kind of collective;
    beta is None if the size made no difference. measured: seconds of a step, by method, if the question has `check`.
    rounds: predictions of local steps. door, island: as in the question. own_traffic, own_seconds: FSDP2's own
    collectives in a step, in bytes on a rank's link inside an island and in seconds; their part that is not hidden is
    included in compute. versions: of the software that measured.
    """

    model: str
    link: str
    ranks: int
    compute: float
    alpha: dict[str, float]
    beta: dict[str, float | None]
    verdict: Verdict
    measured: dict[str, float] = field(default_factory=dict[str, float])
    rounds: tuple[LocalRound, ...] = ()
    door: str = "ddp"
    island: int = 1
    own_traffic: float = 0.0
    own_seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=records.platform_versions)

    def error(self, method: Method) -> float | None:
        """The relative error of a prediction, predicted / measured - 1; None if the method was not measured."""
        seconds = self.measured.get(method.name)
        return None if seconds is None else method.seconds / seconds - 1

    @property
    def local(self) -> LocalRound | None:
        """The round with the fewest steps, and among those the fastest; None if there is none.

        Fewer steps are preferred because models that are averaged more often end closer to dense.
        """
        known = (one for one in self.rounds if not one.refusal)
        return min(known, key=lambda one: (one.every, one.seconds(one.every)), default=None)

    def to_loss(self, optimizer: str) -> list[ToLoss]:
        """Rank dense and every method with known steps to a loss under an optimizer, the soonest first.

        Local steps are included with each number of steps a round that has been measured.

        Raises:
            ValueError: no losses are known for this optimizer.
        """
        found: list[ToLoss] = []
        for method in self.verdict.methods:
            rows = known(method.name, optimizer)
            steps = 1.0 if method.name == DENSE else ratio(rows)
            if steps is not None and not method.refusal:
                found.append(ToLoss(method.name, method.seconds, steps, rows))
        for one in self.rounds:
            for every in LENGTHS if one.exchange == EXCHANGE and not one.refusal else ():
                rows = known(f"local(every={every})", optimizer)
                if (steps := ratio(rows)) is not None:
                    found.append(ToLoss(f"local(every={every})", one.seconds(every), steps, rows))
        return sorted(found, key=lambda way: way.to_loss)

    def to_json(self) -> str:
        """Write strict JSON, with the verdict's sentence and, under "to_loss", the ranking for every optimizer."""
        fields = asdict(self) | {"sentence": self.verdict.sentence}
        fields["to_loss"] = {
            optimizer: [
                {"way": way.way, "seconds_a_step": way.seconds, "steps_of_dense": way.ratio, "seconds": way.to_loss}
                | {"measured_on": in_words(way.rows)}
                for way in self.to_loss(optimizer)
            ]
            for optimizer in OPTIMIZERS
        }
        fields["rounds"] = [
            asdict(one) | {"every": one.every, "seconds_a_step": one.seconds(one.every)} for one in self.rounds
        ]
        return records.strict(fields, indent=1) + "\n"
