"""Convergence by density: DEFT at several densities, and the dense mean, on the language task."""

from __future__ import annotations

from gradwire.lab.studies.chart import Chart, Line, Panel, Report
from gradwire.lab.studies.runs import run_all
from gradwire.lab.training import DENSE, Training

DENSITIES, WORKERS = (0.1, 0.01, 0.001), 8


def density(seed: int, report: Report) -> Chart:
    """Train the language task with 8 workers: dense, and DEFT at densities of 10, 1 and 0.1 %."""
    specs = {"dense": DENSE} | {f"DEFT, {d:.1%}": f"ef(deft(density={d}))" for d in DENSITIES}
    runs = run_all([Training("language", spec, WORKERS, seed=seed) for spec in specs.values()], report)
    epochs, sent = "held-out loss over epochs", "held-out loss over bytes"
    lines: list[Line] = []
    for label, run in zip(specs, runs, strict=True):
        losses = tuple(evaluation.metrics["loss"] for evaluation in run.evaluations)
        lines.append(Line(epochs, label, tuple(evaluation.epoch for evaluation in run.evaluations), losses))
        after = tuple(evaluation.step * run.kilobytes / 1e3 for evaluation in run.evaluations)
        lines.append(Line(sent, label, after[1:], losses[1:]))
    return Chart(
        name="deft-density",
        title=f"DEFT by density: language, {WORKERS} workers, error feedback",
        caption="Bytes: what a worker brings, counted.",
        panels=(
            Panel(epochs, "epoch", "nats a byte"),
            Panel(sent, "megabytes brought by a worker", "nats a byte", log_x=True),
        ),
        lines=tuple(lines),
        facts=tuple(
            {
                "method": label,
                "exchange": run.training.exchange,
                "density": run.density,
                "kilobytes": run.kilobytes,
                "loss": run.final["loss"],
            }
            for label, run in zip(specs, runs, strict=True)
        ),
    )
