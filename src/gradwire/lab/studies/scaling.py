"""Sparsifiers by the number of workers: realised density, residuals, bytes and loss on the language task.

These are the DEFT paper's figures of realised density, of the residual's norm and of convergence by scale-out, on a
task that two cores can train; the numbers are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from types import MappingProxyType
from typing import Any

from gradwire.lab.studies.chart import Chart, Line, Panel, Report, thin
from gradwire.lab.studies.runs import run_all
from gradwire.lab.training import History, Training

DENSITY, STEPS, SIZES = 0.01, 200, (1, 2, 4, 8, 16)
METHODS: Mapping[str, str] = MappingProxyType(
    {
        "DEFT": "ef(deft(density=0.01))",
        "DEFT, exact": "ef(deft(density=0.01, k_source='delegate', exact_k=true))",
        "Top-k, union": "ef(uniontopk(density=0.01))",
        "CLT-k": "ef(cltk(density=0.01))",
        "MiCRO": "ef(micro(density=0.01))",
    }
)
WINDOW = 5
"""Number of steps over which each point of a line is averaged."""


def scaling(seed: int, report: Report) -> Chart:
    """Train the language task with 1 to 16 workers and five sparsifiers of density 1 %."""
    keys = [(method, n) for method in METHODS for n in SIZES]
    trainings = [_training(METHODS[method], n, seed) for method, n in keys]
    runs = dict(zip(keys, run_all(trainings, report), strict=True))
    most = SIZES[-1]
    density, residual = f"density over target, n = {most}", f"residual, n = {most}"
    union, sent = "density over target by n", "bytes by n"
    final = "held-out loss by n"
    lines: list[Line] = []
    for method in METHODS:
        run = runs[method, most]
        lines.append(Line(density, method, *thin([step.density / DENSITY for step in run.steps], WINDOW)))
        lines.append(Line(residual, method, *thin([step.residual or 0.0 for step in run.steps], WINDOW)))
        ns = tuple(map(float, SIZES))
        by_n = [_facts(method, n, runs[method, n]) for n in SIZES]
        for panel, name in ((union, "density"), (sent, "kilobytes"), (final, "loss")):
            lines.append(Line(panel, method, ns, tuple(fact[name] for fact in by_n)))
    d = runs["DEFT", most].parameters
    return Chart(
        name="deft-scaling",
        title=f"Sparsifiers by the number of workers: language, {d:,} parameters, density 1 %, error feedback",
        caption="Workers in one process, the same batch a worker for every n. Bytes: what a worker brings, counted.",
        panels=(
            Panel(density, "step", "realised / target", log_y=True, level=1.0),
            Panel(residual, "step", "mean length of a worker's residual"),
            Panel(union, "workers", "realised / target, mean over steps", log_x=True, log_y=True, level=1.0),
            Panel(sent, "workers", "kB a worker and step", log_x=True),
            Panel(final, "workers", f"nats a byte after {STEPS} steps", log_x=True),
        ),
        lines=tuple(lines),
        facts=tuple(_facts(method, n, run) for (method, n), run in runs.items()),
    )


def _training(exchange: str, n: int, seed: int) -> Training:
    return Training("language", exchange, workers=n, steps=STEPS, seed=seed, evaluate_every=STEPS)


def _facts(method: str, n: int, run: History) -> dict[str, Any]:
    """A row of facts; densities are divided by the target, over all steps and ("late") over the last quarter."""
    densities = [step.density / DENSITY for step in run.steps]
    late = densities[3 * len(densities) // 4 :]
    return {
        "method": method,
        "exchange": run.training.exchange,
        "workers": n,
        "density": mean(densities),
        "density_least": min(densities),
        "density_most": max(densities),
        "late_density": mean(late),
        "late_least": min(late),
        "late_most": max(late),
        "kilobytes": run.kilobytes,
        "residual": run.steps[-1].residual,
        "loss": run.final["loss"],
    }
