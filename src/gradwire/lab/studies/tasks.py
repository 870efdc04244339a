"""The quality of compressed training: three tasks, five methods, equal realised density, several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from types import MappingProxyType
from typing import Any

from gradwire.lab.studies.chart import Chart, Line, Panel, Report
from gradwire.lab.studies.runs import run_all
from gradwire.lab.training import DENSE, History, Training, tasks
from gradwire.lab.training.tasks.protocol import Optimizer

WORKERS, SEEDS, PILOT_STEPS = 8, 3, 60
SETTINGS: tuple[tuple[str, float], ...] = (
    ("vision", 0.1),
    ("language", 0.1),
    ("recommendation", 0.1),
    ("vision", 0.01),
    ("language", 0.01),
)
"""Tasks and densities. In 400 steps, error feedback sends every value about 40 times at 10 %, and 4 times at 1 %."""

METHODS: Mapping[str, str] = MappingProxyType(
    {
        "dense": DENSE,
        "Top-k, union": "ef(uniontopk(density={own_density:.6g}))",
        "CLT-k": "ef(cltk(density={density}))",
        "MiCRO": "ef(micro(density={density}))",
        "DEFT": "ef(deft(density={density}))",
    }
)
UNDER_ADAMW = ("dense", "Top-k, union", "DEFT")
"""The methods that are also trained by AdamW."""


def quality(seed: int, report: Report) -> Chart:
    """Train every task with 8 workers, every method and three seeds, by the task's default optimizer.

    Top-k's union is larger than one worker's selection, so its density is lowered until the union's density equals that
    of the other methods.
    """
    return _compare("deft-tasks", tuple(METHODS), None, seed, report)


def adamw(seed: int, report: Report) -> Chart:
    """Train the same by AdamW, with three of the methods."""
    return _compare("deft-tasks-adamw", UNDER_ADAMW, "adamw", seed, report)


def _compare(name: str, methods: Sequence[str], optimizer: Optimizer | None, seed: int, report: Report) -> Chart:
    own_densities = {(task, density): _calibrate(task, density, optimizer, seed, report) for task, density in SETTINGS}
    keys = [(task, density, method, seed + i) for task, density in SETTINGS for method in methods for i in range(SEEDS)]
    trainings = [
        Training(task, spec, WORKERS, seed=each, optimizer=optimizer)
        for task, density, method, each in keys
        for spec in [METHODS[method].format(density=density, own_density=own_densities[task, density])]
    ]
    found = dict(zip(keys, run_all(trainings, report), strict=True))
    panels: list[Panel] = []
    lines: list[Line] = []
    facts: list[dict[str, Any]] = []
    for task, density in SETTINGS:
        metric = tasks.make(task).metric
        panels.append(Panel(f"{task}, {density:.0%}", "epoch", metric, log_y=metric == "perplexity"))
        runs = {method: [found[task, density, method, seed + i] for i in range(SEEDS)] for method in methods}
        dense = mean(run.final[metric] for run in runs["dense"])
        for method, histories in runs.items():
            lines.append(_line(panels[-1].title, method, metric, histories))
            facts.append({"target": density} | _facts(task, method, metric, dense, histories))
    by = "" if optimizer is None else "AdamW, "
    return Chart(
        name=name,
        title=f"Quality at equal realised density: {WORKERS} workers, error feedback, {by}mean of {SEEDS} seeds",
        caption="Bands from the worst to the best seed. The same settings for all methods, chosen on dense runs.",
        panels=tuple(panels),
        lines=tuple(lines),
        facts=tuple(facts),
    )


def pieces(methods: Sequence[str] = tuple(METHODS)) -> int:
    """The number of runs of a study; dense runs do not depend on the density, so they are made once a task."""
    sparse = len(SETTINGS) * (2 + SEEDS * (len(methods) - 1))
    return sparse + SEEDS * len({task for task, _ in SETTINGS})


def _calibrate(task: str, density: float, optimizer: Optimizer | None, seed: int, report: Report) -> float:
    """Find the density of one worker's Top-k for which the union has `density`, by two short runs."""
    own_density = density / 3
    for _ in range(2):
        pilot = Training(
            task, f"ef(uniontopk(density={own_density:.6g}))", WORKERS, PILOT_STEPS, seed, optimizer=optimizer
        )
        (run,) = run_all([pilot], report)
        own_density *= density / mean(step.density for step in run.steps[PILOT_STEPS // 3 :])
    return min(1.0, own_density)


def _line(panel: str, method: str, metric: str, runs: Sequence[History]) -> Line:
    """The line of the metric over epochs: mean, minimum and maximum over the seeds."""
    epochs = tuple(evaluation.epoch for evaluation in runs[0].evaluations)
    each = [[evaluation.metrics[metric] for evaluation in run.evaluations] for run in runs]
    columns = list(zip(*each, strict=True))
    return Line(panel, method, epochs, *(tuple(map(of, columns)) for of in (mean, min, max)))


def _facts(task: str, method: str, metric: str, dense: float, runs: Sequence[History]) -> dict[str, Any]:
    """A row of facts; loss_to_dense: how much worse the mean is than dense's, relative; negative if it is better."""
    finals = [run.final[metric] for run in runs]
    better = 1.0 if tasks.make(task).higher_is_better else -1.0
    return {
        "task": task,
        "data": runs[0].source,
        "parameters": runs[0].parameters,
        "method": method,
        "exchange": runs[0].training.exchange,
        "optimizer": runs[0].training.optimizer,
        "metric": metric,
        "mean": mean(finals),
        "least": min(finals),
        "most": max(finals),
        "loss_to_dense": better * (dense - mean(finals)) / dense,
        "density": mean(run.density for run in runs),
        "kilobytes": mean(run.kilobytes for run in runs),
    }
