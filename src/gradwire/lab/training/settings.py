"""What a training run is, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from statistics import mean
from typing import Any, TypeAlias

from gradwire.lab.checks import check_count, check_name, check_number
from gradwire.lab.training.tasks import TASKS, Settings, Task, make
from gradwire.spec import SpecError, parse

DENSE = "dense"
"""The plain mean, by its usual name."""

OPEN = ("steps", "model", "batch", "momentum", "clip", "evaluate_every", "decay")
"""Settings that may be left to the task, beside the learning rate."""


@dataclass(frozen=True)
class Training:
    """n workers that train one model in lockstep. What is None is the task's default; `filled` puts it in.

    task: a name in TASKS. exchange: "dense" or a spec. batch: samples a worker and step. learning_rate: of the
    optimizer, outside the memory unless the exchange takes it in. momentum: of SGD. clip: the longest a worker's own
    gradient may be before it is compressed, 0 for any. evaluate_every: steps. decay: parts of the run after which the
    learning rate falls to a tenth. data: where to read instead of what is installed.

    Raises:
        ValueError: a name, spec or number that cannot be, in one sentence.
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

    @property
    def spec(self) -> str:
        """The exchange's spec."""
        return "mean" if self.exchange == DENSE else self.exchange

    def make(self) -> Task:
        """Make the task."""
        return make(self.task, self.data)

    @property
    def settings(self) -> Settings:
        """The task's settings, with what is given here in their place."""
        given = {name: getattr(self, name) for name in OPEN} | {"lr": self.learning_rate}
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(make(self.task).defaults, **chosen)

    def filled(self) -> Training:
        """The same run with nothing left to defaults."""
        settings = self.settings
        chosen: dict[str, Any] = {name: getattr(settings, name) for name in OPEN}
        return replace(self, learning_rate=settings.lr, **chosen)

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Training:
        """Read what `asdict` gave, after a journey through JSON or a file."""
        known = {field.name for field in fields(cls)}
        if set(told) != known:
            raise ValueError(f"these are not the settings of a training run: {', '.join(sorted(set(told) ^ known))}")
        decay = None if told["decay"] is None else tuple(told["decay"])
        return replace(cls(told["task"]), **(told | {"decay": decay}))


@dataclass(frozen=True)
class Step:
    """One step, counted from 1.

    loss: the workers' mean, before the step. density: entries of the mean that are sent, of a Dense one those that are
    not zero, over d. residual: the mean over the workers of the length of error feedback's memory after the step; None
    where there is none. bytes, traffic: what a worker brought and what that puts on its link (see the ledger), the
    average over the workers. gradient_seconds: forward and backward, of all workers that share a process together.
    exchange_seconds: compression and network, likewise. update_seconds: the optimizer's.
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
    """Held-out numbers after `step` steps, `epoch` epochs and `seconds` of training, evaluations not counted."""

    step: int
    epoch: float
    seconds: float
    metrics: dict[str, float]


Event: TypeAlias = Step | Evaluation


@dataclass(frozen=True)
class History:
    """A run that has ended: its settings, none left open; every step and evaluation since it began or was resumed."""

    training: Training
    steps: tuple[Step, ...]
    evaluations: tuple[Evaluation, ...]
    parameters: int
    source: str

    @property
    def density(self) -> float:
        """Realised density, the mean over the steps."""
        return mean(step.density for step in self.steps)

    @property
    def kilobytes(self) -> float:
        """What a worker brought in a step, the mean over the steps."""
        return mean(step.bytes for step in self.steps) / 1e3

    @property
    def final(self) -> dict[str, float]:
        """What the last evaluation gave."""
        return self.evaluations[-1].metrics
