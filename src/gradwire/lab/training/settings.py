"""The settings of a training run, the events it reports, and its history."""

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
"""Settings that may be left to the task, like the learning rate."""


@dataclass(frozen=True)
class Training:
    """A run of n workers that train one model. None stands for the task's default; `filled` puts it in.

    task: a name in TASKS. exchange: "dense" or a spec. batch: samples a worker and step. learning_rate: of the
    optimizer, outside the memory unless the exchange takes it in. momentum: of SGD. clip: the largest norm of a
    worker's own gradient before compression, 0 for no limit. evaluate_every: steps. decay: fractions of the run after
    which the learning rate falls to a tenth. data: a place to read from instead of the installed data.

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
        """The same run with every default written out."""
        settings = self.settings
        chosen: dict[str, Any] = {name: getattr(settings, name) for name in OPEN}
        return replace(self, learning_rate=settings.lr, **chosen)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Training:
        """Read what `asdict` gave, also out of JSON or a checkpoint."""
        known = {field.name for field in fields(cls)}
        if set(saved) != known:
            raise ValueError(f"these are not the settings of a training run: {', '.join(sorted(set(saved) ^ known))}")
        decay = None if saved["decay"] is None else tuple(saved["decay"])
        return replace(cls(saved["task"]), **(saved | {"decay": decay}))


@dataclass(frozen=True)
class Step:
    """One step, counted from 1.

    loss: the workers' mean, before the step. density: entries of the mean that are sent, or of a dense mean those that
    are not zero, over d. residual: norm of error feedback's residual after the step, the mean over the workers; None
    where there is none. bytes, traffic: what a worker sent, and what that puts on its link (see the ledger), the mean
    over the workers. gradient_seconds: forward and backward of all workers in the process. exchange_seconds:
    compression and network, likewise. update_seconds: the optimizer's.
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
        """Kilobytes that a worker sent in a step, the mean over the steps."""
        return mean(step.bytes for step in self.steps) / 1e3

    @property
    def final(self) -> dict[str, float]:
        """The metrics of the last evaluation."""
        return self.evaluations[-1].metrics
