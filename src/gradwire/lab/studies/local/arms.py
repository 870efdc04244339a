"""Shared by the studies of local steps: settings, arms (one setting with several seeds), and their results."""

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
"""The learning rates with the lowest loss after 400 steps on seed 0, searched in factors of two: for dense steps, for
the default and DiLoCo's form at ten local steps, for PowerSGD (dense's) and for Top-k at every step, for which 2e-3 to
8e-3 are alike."""

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
"""The settings of dense steps, on which all others are based."""


def sparse(decay: float) -> str:
    """The default exchange of `gradwire.local`, with this decay."""
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
    """Local steps with default settings, except for those given."""
    return replace(
        BASE, exchange=exchange, learning_rate=LOCAL_RATE, local=LocalSteps(every, outer, delay, catch_up, fragments)
    )


def plain(every: int = 10, outer: str = AVERAGE) -> Training:
    """Local steps whose differences are averaged without compression."""
    return replace(default(every, DENSE, outer), learning_rate=NESTEROV_RATE if outer == NESTEROV else LOCAL_RATE)


@dataclass(frozen=True)
class Arm:
    """The runs of one setting with several seeds."""

    label: str
    runs: tuple[History, ...]

    @property
    def losses(self) -> list[float]:
        """Final held-out losses, in nats per byte."""
        return [run.final["loss"] for run in self.runs]

    @property
    def size(self) -> int:
        """The number of workers."""
        return self.runs[0].training.workers

    @property
    def megabytes(self) -> float:
        """Megabytes that a worker sent in a run, averaged over the seeds."""
        return mean(sum(step.bytes for step in run.steps) for run in self.runs) / 1e6


def play(trainings: Mapping[str, Training], seed: int, report: Report, seeds: int = SEEDS) -> dict[str, Arm]:
    """Train every setting with `seeds` seeds, counted from `seed`."""
    wanted = [replace(training, seed=seed + i) for training in trainings.values() for i in range(seeds)]
    found = iter(run_all(wanted, report))
    return {label: Arm(label, tuple(next(found) for _ in range(seeds))) for label in trainings}


def over_steps(panel: str, arm: Arm) -> Line:
    """The line of held-out loss over steps: mean, minimum and maximum over the seeds."""
    columns = list(zip(*([each.metrics["loss"] for each in run.evaluations] for run in arm.runs), strict=True))
    x = tuple(float(each.step) for each in arm.runs[0].evaluations)
    return Line(panel, arm.label, x[1:], *(tuple(map(of, columns[1:])) for of in (mean, min, max)))


def by(panel: str, label: str, points: Sequence[tuple[float, Arm]]) -> Line:
    """The line of final loss by a number: mean, minimum and maximum over the seeds."""
    x = tuple(float(number) for number, _ in points)
    return Line(panel, label, x, *(tuple(of(arm.losses) for _, arm in points) for of in (mean, min, max)))


def facts(arm: Arm, dense: Arm) -> dict[str, Any]:
    """A row of facts: settings (None if they do not apply), final loss, its distance to dense's, and megabytes."""
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
