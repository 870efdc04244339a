"""What the studies of local steps share: settings, several seeds of each arm, and what they came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from gradwire.engine.anchored import CatchUp
from gradwire.lab.studies.chart import Line, Report
from gradwire.lab.studies.runs import run_all
from gradwire.lab.training import DENSE, History, LocalSteps, Training

STEPS, SEEDS = 400, 3
DENSE_RATE, LOCAL_RATE, NESTEROV_RATE, POWERSGD_RATE, TOPK_RATE = 8e-3, 8e-3, 1e-3, 8e-3, 2e-3
"""Learning rates by which 400 steps end lowest on seed 0, by factors of two: of dense steps, of the default and of
DiLoCo's form at ten local steps, and of Top-k at every step, for which 2e-3 to 8e-3 are alike. PowerSGD has dense's."""

SENDERS, AVERAGE, NESTEROV = "sgd(lr=1.0, mean='senders')", "sgd(lr=1.0)", "nesterov(lr=0.7, momentum=0.9)"
BASE = Training(
    "language",
    workers=4,
    model="gpt",
    batch=4,
    steps=STEPS,
    optimizer="adamw",
    evaluate_every=STEPS // 10,
    learning_rate=DENSE_RATE,
)
"""Dense steps."""


def sparse(decay: float) -> str:
    """The default exchange, with another decay."""
    return f"ef(topk(density=0.015625, values='bits2'), decay={decay})"


SPARSE = sparse(0.95)


def default(
    every: int = 10,
    exchange: str = SPARSE,
    outer: str = SENDERS,
    delay: int = 0,
    catch_up: CatchUp = "mix",
    fragments: int = 1,
) -> Training:
    """Local steps by default settings but for those given."""
    return replace(
        BASE, exchange=exchange, learning_rate=LOCAL_RATE, local=LocalSteps(every, outer, delay, catch_up, fragments)
    )


def plain(every: int = 10, outer: str = AVERAGE) -> Training:
    """Local steps whose differences are averaged as they are."""
    return replace(default(every, DENSE, outer), learning_rate=NESTEROV_RATE if outer == NESTEROV else LOCAL_RATE)


@dataclass(frozen=True)
class Arm:
    """One setting under several seeds."""

    label: str
    runs: tuple[History, ...]

    @property
    def losses(self) -> list[float]:
        """Held-out losses at the end, in nats a byte."""
        return [run.final["loss"] for run in self.runs]

    @property
    def size(self) -> int:
        """Workers."""
        return self.runs[0].training.workers

    @property
    def megabytes(self) -> float:
        """What a worker sent in all."""
        return mean(sum(step.bytes for step in run.steps) for run in self.runs) / 1e6


def play(trainings: Mapping[str, Training], seed: int, report: Report, seeds: int = SEEDS) -> dict[str, Arm]:
    """Train every setting under so many seeds."""
    wanted = [replace(training, seed=seed + i) for training in trainings.values() for i in range(seeds)]
    found = iter(run_all(wanted, report))
    return {label: Arm(label, tuple(next(found) for _ in range(seeds))) for label in trainings}


def over_steps(panel: str, arm: Arm) -> Line:
    """Held-out loss over steps: mean, least and most of the seeds."""
    columns = list(zip(*([each.metrics["loss"] for each in run.evaluations] for run in arm.runs), strict=True))
    x = tuple(float(each.step) for each in arm.runs[0].evaluations)
    return Line(panel, arm.label, x[1:], *(tuple(map(of, columns[1:])) for of in (mean, min, max)))


def by(panel: str, label: str, points: Sequence[tuple[float, Arm]]) -> Line:
    """Final loss by a number: mean, least and most of the seeds."""
    x = tuple(float(number) for number, _ in points)
    return Line(panel, label, x, *(tuple(of(arm.losses) for _, arm in points) for of in (mean, min, max)))


def facts(arm: Arm, dense: Arm) -> dict[str, Any]:
    """A row: settings, final loss, its distance to dense's, and megabytes. What does not apply is None."""
    training = arm.runs[0].training
    local = training.local
    return {
        "method": arm.label,
        "workers": training.workers,
        "exchange": training.exchange,
        "local steps": local and local.every,
        "outer": local and local.outer,
        "delay": local and local.delay,
        "catch-up": local.catch_up if local and local.delay else None,
        "fragments": local and local.fragments,
        "learning rate": training.learning_rate,
        "loss": mean(arm.losses),
        "least": min(arm.losses),
        "most": max(arm.losses),
        "to dense": mean(arm.losses) - mean(dense.losses),
        "megabytes": arm.megabytes,
        "times fewer bytes": dense.megabytes / arm.megabytes,
    }
