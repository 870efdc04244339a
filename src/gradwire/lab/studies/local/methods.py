"""Methods compared: the loss over steps and over bytes, from dense steps to a hundred local steps a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gradwire.lab.studies.chart import Chart, Panel, Report
from gradwire.lab.studies.local import arms
from gradwire.lab.training import Training

EVERY = (1, 4, 10, 30, 100)
METHODS: Mapping[str, Training] = MappingProxyType(
    {
        "dense, each step": arms.BASE,
        "PowerSGD rank 4, each step": replace(
            arms.BASE, exchange="ef(powersgd(rank=4))", learning_rate=arms.POWERSGD_RATE
        ),
        "Top-k 1 %, each step": replace(arms.BASE, exchange="ef(topk(density=0.01))", learning_rate=arms.TOPK_RATE),
        "DEFT 1 %, each step": replace(arms.BASE, exchange="ef(deft(density=0.01))", learning_rate=arms.TOPK_RATE),
        "averaged, H = 10": arms.plain(10),
        "DiLoCo's form, H = 10": arms.plain(10, arms.NESTEROV),
        "DiLoCo's form, H = 30": arms.plain(30, arms.NESTEROV),
        "DiLoCo's form, H = 100": arms.plain(100, arms.NESTEROV),
        "DEFT 1/64, H = 10": arms.default(10, exchange="ef(deft(density=0.015625))"),
    }
    | {f"default, H = {every}": arms.default(every) for every in EVERY}
)


def methods(seed: int, report: Report) -> Chart:
    """Train a small GPT by every method with three seeds."""
    found = arms.play(METHODS, seed, report)
    dense = found["dense, each step"]
    steps, local, sent = "each step, over steps", "local steps, over steps", "final loss over bytes"
    lines = [arms.over_steps(steps if "each" in label else local, arm) for label, arm in found.items()]
    lines.append(arms.over_steps(local, dense))
    lines += [arms.by(sent, label, [(arm.megabytes, arm)]) for label, arm in found.items()]
    d = dense.runs[0].parameters
    return Chart(
        name="local-methods",
        title=f"Dense, compressed and local steps under AdamW: GPT of {d:,} parameters, 4 workers, {arms.STEPS} steps",
        caption=f"Mean of {arms.SEEDS} seeds, bands from least to most. Bytes: what a worker brings, counted.",
        panels=(
            Panel(steps, "step", "held-out nats a byte"),
            Panel(local, "step", "held-out nats a byte"),
            Panel(sent, "megabytes brought by a worker", "held-out nats a byte", log_x=True),
        ),
        lines=tuple(lines),
        facts=tuple(arms.facts(arm, dense) for arm in found.values()),
    )
