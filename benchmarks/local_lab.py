"""Local steps under AdamW against dense steps: a GPT of 0.83 M on text, four workers in one process.

    nice -n 5 python benchmarks/local_lab.py

Every run that has ended is in results/local_lab.json, so the script can be stopped and started again. First the learning
rate of each method is swept on short runs, and the sweep goes on while the best rate is at its edge; then come the runs
of 2,000 steps, seed 0 before the others, and a few of them on texts of four kinds, one a worker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from gradwire.lab import records
from gradwire.lab.training import History, Local, Training, train

RESULTS = Path(__file__).parent / "results" / "local_lab.json"
STEPS, SWEEP_STEPS, SEEDS = 2000, 400, (0, 1, 2)
RATES = (1e-3, 2e-3, 4e-3)
SPARSE = "ef(topk(density=0.015625, values='bits2'))"
NESTEROV = "nesterov(lr=0.7, momentum=0.9)"
SENDERS, AVERAGE = "sgd(lr=1.0, mean='senders')", "sgd(lr=1.0)"
BASE = Training("language", workers=4, model="gpt128", batch=8, steps=STEPS, optimizer="adamw", evaluate_every=200)
SWEPT = {
    "dense": BASE,
    "default": replace(BASE, exchange=SPARSE, local=Local(10, SENDERS)),
    "DiLoCo": replace(BASE, local=Local(10, NESTEROV)),
}
"""Methods with a learning rate of their own, found at 10 local steps."""


def main() -> None:
    torch.set_num_threads(1)
    rates = {name: swept(name, training) for name, training in SWEPT.items()}
    print(rates, flush=True)
    for label, training in planned(rates):
        result(label, training)


def planned(rates: dict[str, float]) -> Iterator[tuple[str, Training]]:
    """Long runs, those that matter most first."""
    for seed in SEEDS:
        base = replace(BASE, seed=seed)
        yield "dense", replace(base, learning_rate=rates["dense"])
        sparse = replace(base, exchange=SPARSE, learning_rate=rates["default"])
        for every in (4, 10):
            yield f"default, H = {every}", replace(sparse, local=Local(every, SENDERS))
        for every in (4, 10):
            yield f"DiLoCo, H = {every}", replace(base, learning_rate=rates["DiLoCo"], local=Local(every, NESTEROV))
        if seed == SEEDS[0]:
            yield "unlike: dense", replace(base, learning_rate=rates["dense"], unlike=True)
            yield "unlike: default, H = 10", replace(sparse, local=Local(10, SENDERS), unlike=True)
    for seed in SEEDS:
        base = replace(BASE, seed=seed, learning_rate=rates["default"])
        for every in (4, 10):
            yield f"average, H = {every}", replace(base, local=Local(every, AVERAGE))


def swept(name: str, training: Training) -> float:
    """Find the learning rate at which a short run ends lowest, never at the edge of those tried."""
    rates = list(RATES)
    while True:
        short = replace(training, steps=SWEEP_STEPS, evaluate_every=SWEEP_STEPS)
        losses = {rate: result(f"sweep: {name}", replace(short, learning_rate=rate))["loss"] for rate in sorted(rates)}
        best = min(losses, key=losses.__getitem__)
        if best not in (min(rates), max(rates)):
            return best
        rates.append(2 * best if best == max(rates) else best / 2)


def result(label: str, training: Training) -> dict[str, Any]:
    """Look up a run, or do it and write it down."""
    known = (
        json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"versions": records.platform_versions(), "runs": []}
    )
    settings = json.loads(json.dumps(asdict(training.filled())))
    for run in known["runs"]:
        if run["training"] == settings:
            return run
    began = time.perf_counter()
    found = summary(label, train(training), settings) | {"seconds": round(time.perf_counter() - began, 1)}
    known["runs"].append(found)
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    print(f"{label}, lr {training.learning_rate}, seed {training.seed}: {found['loss']:.4f}, "
          f"{found['megabytes']:.3f} MB, {found['seconds']:.0f} s", flush=True)  # fmt: skip
    return found


def summary(label: str, history: History, settings: dict[str, Any]) -> dict[str, Any]:
    """What a run came to. megabytes: what a worker sent in all."""
    return {
        "label": label,
        "parameters": history.parameters,
        "loss": history.final["loss"],
        "megabytes": sum(step.bytes for step in history.steps) / 1e6,
        "losses": [[each.step, each.metrics["loss"]] for each in history.evaluations],
        "training": settings,
    }


if __name__ == "__main__":
    main()
