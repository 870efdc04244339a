"""What advice is asked for, and what it has come to."""

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
    """Which of these specs pays on this model?

    local: exchanges of differences between local steps, whose rounds are predicted beside them.
    door: through which gradients go: "ddp", "module" or "sharded". island: ranks of an island, neighbours by number; 1
    for none. inside: a rate of the links inside one, such as "100gbit", in place of the measured.
    check: measure all of them too, `steps` each in `seconds` at most, and with them the ways in `beside`, which have no
    prediction.
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
            raise ValueError(f"what is checked is measured through DDP on the links that are there, got {what}")
        if not self.candidates or len(set(self.candidates)) < len(self.candidates):
            raise ValueError(f"advice takes every candidate once, got {', '.join(self.candidates) or 'none'}")
        for spec in (*self.candidates, *self.local):
            parse(spec)
        self.plan(("dense", *self.beside))

    def check_ranks(self, ranks: int) -> None:
        """Refuse islands that so many ranks do not fill, or of which there is only one (ValueError)."""
        if self.island > 1 and (ranks % self.island or ranks == self.island):
            raise ValueError(f"islands of {self.island} are two or more, all filled; {ranks} ranks do not make that")

    def plan(self, methods: tuple[str, ...]) -> BenchPlan:
        """The benchmark that measures methods on this model."""
        return BenchPlan(self.model, methods, steps=self.steps, seconds=self.seconds, bucket_mb=self.bucket_mb)


@dataclass(frozen=True)
class Probed:
    """The link and the pace are known: seconds of a step without a network."""

    compute: float


@dataclass(frozen=True)
class ToLoss:
    """A way whose steps to a loss have been measured.

    seconds: of a step. ratio: steps for each of dense, inf if it never came to the loss. rows: the runs that the ratio
    is from, none for dense.
    """

    way: str
    seconds: float
    ratio: float
    rows: tuple[Known, ...] = ()

    @property
    def to_loss(self) -> float:
        """Seconds for each step of dense."""
        return self.seconds * self.ratio


@dataclass(frozen=True)
class Advised:
    """A verdict, and what it rests on.

    compute: seconds of a step without a network. alpha, beta: seconds a call and bytes a second, by kind of collective;
    beta is None where size made no difference. measured: seconds of a step, by method, if that was asked for. rounds:
    what local steps would take. door, island: as asked. own_traffic, own_seconds: of FSDP2's own collectives in a step,
    bytes on a rank's link inside an island and seconds; compute contains what of them is not hidden. versions: what it
    was measured with.
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
        """Predicted over measured, less one; None where nothing was measured."""
        seconds = self.measured.get(method.name)
        return None if seconds is None else method.seconds / seconds - 1

    @property
    def local(self) -> LocalRound | None:
        """The shortest round, of those the fastest: models that meet more often end closer to dense; None if none."""
        known = (one for one in self.rounds if not one.refusal)
        return min(known, key=lambda one: (one.every, one.seconds(one.every)), default=None)

    def to_loss(self, optimizer: str) -> list[ToLoss]:
        """Dense, and every way whose steps to a loss are known under an optimizer, the soonest first.

        Local steps are taken with as many steps a round as there are curves of.

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
        """Strict JSON, with the sentence, and under "to_loss" every optimizer's ranking by the time to a loss."""
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
