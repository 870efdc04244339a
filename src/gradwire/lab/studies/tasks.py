"""Three tasks under five ways to average, at one realised density, several seeds: what compression costs in quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from types import MappingProxyType
from typing import Any

from gradwire.lab import tasks
from gradwire.lab.studies.chart import Chart, Line, Panel, Tell
from gradwire.lab.studies.runs import run_all
from gradwire.lab.training import DENSE, History, Training

WORKERS, SEEDS, DENSITY, PILOT_STEPS = 8, 3, 0.01, 60
METHODS: Mapping[str, str] = MappingProxyType(
    {
        "dense": DENSE,
        "Top-k, union": "ef(uniontopk(density={density:.6g}))",
        "CLT-k": "ef(cltk(density=0.01))",
        "MiCRO": "ef(micro(density=0.01))",
        "DEFT": "ef(deft(density=0.01))",
    }
)
NAMES = ("vision", "language", "recommendation")


def quality(seed: int, tell: Tell) -> Chart:
    """Train every task with 8 workers under every method, three seeds each.

    Top-k's union is larger than what one worker selects; its density is lowered until the union's is the others'.
    """
    shares = {task: _calibrate(task, seed, tell) for task in NAMES}
    keys = [(task, method, seed + i) for task in NAMES for method in METHODS for i in range(SEEDS)]
    trainings = [_training(task, METHODS[method].format(density=shares[task]), each) for task, method, each in keys]
    found = dict(zip(keys, run_all(trainings, tell), strict=True))
    panels: list[Panel] = []
    lines: list[Line] = []
    facts: list[dict[str, Any]] = []
    for task in NAMES:
        metric = tasks.make(task).metric
        panels.append(Panel(task, "epoch", f"{metric}, mean of {SEEDS} seeds, least and most"))
        runs = {method: [found[task, method, seed + i] for i in range(SEEDS)] for method in METHODS}
        lines += [_line(task, method, metric, histories) for method, histories in runs.items()]
        dense = mean(run.final[metric] for run in runs["dense"])
        facts += [_facts(task, method, metric, dense, histories) for method, histories in runs.items()]
    return Chart(
        name="deft-tasks",
        title=f"Quality at equal realised density 1 %: {WORKERS} workers, error feedback, {SEEDS} seeds",
        caption="Bands from the worst to the best seed. The same settings for all methods, chosen on dense runs.",
        panels=tuple(panels),
        lines=tuple(lines),
        facts=tuple(facts),
    )


def _training(task: str, exchange: str, seed: int) -> Training:
    return Training(task, exchange, workers=WORKERS, seed=seed)


def _calibrate(task: str, seed: int, tell: Tell) -> float:
    """A density of one worker's Top-k at which the union's is DENSITY, found by two short runs."""
    share = DENSITY / 3
    for _ in range(2):
        pilot = Training(task, f"ef(uniontopk(density={share:.6g}))", WORKERS, steps=PILOT_STEPS, seed=seed)
        (run,) = run_all([pilot], tell)
        late = [step.density for step in run.steps[PILOT_STEPS // 3 :]]
        share *= DENSITY / mean(late)
    return min(1.0, share)


def _line(task: str, method: str, metric: str, runs: Sequence[History]) -> Line:
    """The metric over epochs: mean, least and most of the seeds."""
    epochs = tuple(evaluation.epoch for evaluation in runs[0].evaluations)
    each = [[evaluation.metrics[metric] for evaluation in run.evaluations] for run in runs]
    columns = list(zip(*each, strict=True))
    return Line(task, method, epochs, *(tuple(map(of, columns)) for of in (mean, min, max)))


def _facts(task: str, method: str, metric: str, dense: float, runs: Sequence[History]) -> dict[str, Any]:
    """loss_to_dense: by how much, relative, the mean is worse than dense's; negative where it is better."""
    finals = [run.final[metric] for run in runs]
    better = 1.0 if tasks.make(task).higher_is_better else -1.0
    return {
        "task": task,
        "data": runs[0].source,
        "parameters": runs[0].parameters,
        "method": method,
        "exchange": runs[0].training.exchange,
        "metric": metric,
        "mean": mean(finals),
        "least": min(finals),
        "most": max(finals),
        "loss_to_dense": better * (dense - mean(finals)) / dense,
        "density": mean(step.density for run in runs for step in run.steps),
        "kilobytes": mean(step.bytes for run in runs for step in run.steps) / 1e3,
    }
