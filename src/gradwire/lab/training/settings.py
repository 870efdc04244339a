"""The settings of a training run, the events it reports, and its history."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from statistics import mean
from typing import Any, TypeAlias, get_args

from gradwire.checks import is_whole
from gradwire.lab.checks import check_count, check_name, check_number
from gradwire.lab.training.local import LocalSteps
from gradwire.lab.training.tasks import TASKS, Settings, Task, make
from gradwire.lab.training.tasks.protocol import Optimizer, RateSchedule
from gradwire.spec import SpecError, parse

DENSE = "dense"
"""The usual name of the uncompressed mean."""

OPEN = (
    "steps",
    "model",
    "batch",
    "momentum",
    "clip",
    "evaluate_every",
    "decay",
    "optimizer",
    "schedule",
    "warmup_steps",
)
"""Settings, beside the learning rate, that may be left to the task."""

NEWER = {"optimizer", "schedule", "warmup_steps", "local", "unlike"}
"""Settings that checkpoints of format 1 may lack; their defaults give the earlier behaviour."""


@dataclass(frozen=True)
class Training:
    """Settings of a run in which n workers train one model. None means the task's default; `filled` writes it out.

    task: a name in TASKS. exchange: "dense" or a spec. batch: samples a worker and step. learning_rate: of the
    optimizer, applied outside the memory unless the exchange applies it. momentum: of SGD. clip: the largest norm of a
    worker's own gradient before compression; 0 for no limit. evaluate_every: steps between evaluations. decay:
    fractions of the run after which the learning rate falls to a tenth. data: a path to read instead of the installed
    data. optimizer: "sgd", "adam", "adamw" or "muon". schedule: of the learning rate, "constant" (except for decays) or
    "cosine". warmup_steps: steps of its linear warm-up. local: take local steps and exchange differences of models
    instead of gradients. unlike: workers have unlike data.

    Raises:
        ValueError: an invalid name, spec or number, in one sentence.
    """

    task: str
    exchange: str = DENSE
    workers: int = 16
    steps: int | None = None
    seed: int = 0
    model: str | None = None
    batch: int | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    clip: float | None = None
    evaluate_every: int | None = None
    decay: tuple[float, ...] | None = None
    data: str | None = None
    optimizer: Optimizer | None = None
    schedule: RateSchedule | None = None
    warmup_steps: int | None = None
    local: LocalSteps | None = None
    unlike: bool = False

    def __post_init__(self) -> None:
        check_name("task", self.task, TASKS)
        try:
            parse(self.spec)
        except SpecError as error:
            raise SpecError(f"{error} (or {DENSE})") from None
        for name in ("workers", "steps", "batch", "evaluate_every"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"a seed is a whole number of 64 bits, got {self.seed}")
        if self.learning_rate is not None:
            check_number("learning_rate", self.learning_rate, 0.0, above=True)
        if self.clip is not None:
            check_number("clip", self.clip, 0.0)
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not all(0 < part < 1 for part in self.decay or ()):
            raise ValueError(f"decay takes parts of the run between 0 and 1, got {self.decay}")
        self._check_optimizer()

    def _check_optimizer(self) -> None:
        """Raise ValueError for settings of the optimizer that are invalid or contradict one another."""
        for name, known in (("optimizer", Optimizer), ("schedule", RateSchedule)):
            if getattr(self, name) is not None:
                check_name(name, getattr(self, name), get_args(known))
        if self.warmup_steps is not None and (not is_whole(self.warmup_steps) or self.warmup_steps < 0):
            raise ValueError(f"warmup_steps must be a whole number of at least 0, got {self.warmup_steps!r}")
        usual = make(self.task).defaults.optimizer
        if self.optimizer in ("sgd", "adam") and self.optimizer != usual and self.learning_rate is None:
            raise ValueError(f"{self.task} has no learning rate of its own for {self.optimizer}; give one")
        if self.momentum and (self.optimizer or usual) != "sgd":
            raise ValueError(f"momentum is SGD's, and {self.optimizer or usual} was given {self.momentum}")

    @property
    def spec(self) -> str:
        """The exchange's spec."""
        return "mean" if self.exchange == DENSE else self.exchange

    def make(self) -> Task:
        """Make the task."""
        return make(self.task, self.data, self.unlike)

    @property
    def settings(self) -> Settings:
        """The task's settings, overridden by those given here."""
        given = {name: getattr(self, name) for name in OPEN} | {"lr": self.learning_rate}
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(self._usual, **chosen)

    @property
    def _usual(self) -> Settings:
        """The task's default settings for this optimizer and schedule."""
        task = make(self.task)
        usual = task.adamw(self.model) if self.optimizer in ("adamw", "muon") else task.defaults
        if self.optimizer not in (None, "sgd"):
            usual = replace(usual, momentum=0.0)
        return replace(usual, decay=()) if self.schedule == "cosine" else usual

    def filled(self) -> Training:
        """The same run with every default written out."""
        settings = self.settings
        chosen: dict[str, Any] = {name: getattr(settings, name) for name in OPEN}
        return replace(self, learning_rate=settings.lr, **chosen)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Training:
        """Read a dict that `asdict` made, also from JSON or a checkpoint; ValueError for other keys."""
        usual = {field.name: field.default for field in fields(cls)}
        saved = {name: usual[name] for name in NEWER} | saved
        if saved.keys() != usual.keys():
            odd = ", ".join(sorted(saved.keys() ^ usual.keys()))
            raise ValueError(f"these are not the settings of a training run: {odd}")
        decay = None if saved["decay"] is None else tuple(saved["decay"])
        local = None if saved["local"] is None else LocalSteps(**saved["local"])
        return replace(cls(saved["task"]), **(saved | {"decay": decay, "local": local}))


@dataclass(frozen=True)
class Step:
    """The figures of one step, counted from 1.

    loss: the workers' mean, before the step. density: indices in the sparse mean, or nonzero entries of a dense one,
    divided by d; 0 for a step without an exchange. residual: norm of error feedback's residual after the step, averaged
    over the workers; None if there is none. bytes, traffic: what a worker sent, and what that puts on its link (see the
    ledger), averaged over the workers. gradient_seconds: forward and backward of all workers in the process.
    exchange_seconds: compression and network of all workers in the process. update_seconds: the optimizer's step.
    """

    step: int
    loss: float
    density: float
    residual: float | None
    bytes: float
    traffic: float
    gradient_seconds: float
    exchange_seconds: float
    update_seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Held-out metrics after `step` steps, `epoch` epochs and `seconds` of training, evaluations not counted."""

    step: int
    epoch: float
    seconds: float
    metrics: dict[str, float]


Event: TypeAlias = Step | Evaluation


@dataclass(frozen=True)
class History:
    """A finished run: its settings, defaults filled in, and all steps and evaluations since its start or resumption."""

    training: Training
    steps: tuple[Step, ...]
    evaluations: tuple[Evaluation, ...]
    parameters: int
    source: str

    @property
    def density(self) -> float:
        """The density actually sent, averaged over the steps."""
        return mean(step.density for step in self.steps)

    @property
    def kilobytes(self) -> float:
        """Kilobytes that a worker sent in a step, averaged over the steps."""
        return mean(step.bytes for step in self.steps) / 1e3

    @property
    def final(self) -> dict[str, float]:
        """The metrics of the last evaluation."""
        return self.evaluations[-1].metrics
