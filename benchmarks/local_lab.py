"""Local steps compared with dense steps under AdamW: a GPT of 0.83 M parameters on text, four workers in one process.

    python benchmarks/local_lab.py [--seed N]

Every finished run is kept in results/local_lab.json, so the script can be stopped and restarted. First the learning rate of
each method is swept on short runs, and the sweep continues while the best rate is at its edge. Then come the runs of 2,000
steps, seed 0 before the others, a few of them with a different kind of text for each worker.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from gradwire.lab import records
from gradwire.lab.training import History, LocalSteps, Training, train

RESULTS = Path(__file__).parent / "results" / "local_lab.json"
STEPS, SWEEP_STEPS, SEEDS = 2000, 300, (0, 1, 2)
RATES = (2e-3, 4e-3, 8e-3)
SPARSE = "ef(topk(density=0.015625, values='bits2'), decay=0.95)"
KEEPING = "ef(topk(density=0.015625, values='bits2'))"
NESTEROV = "nesterov(lr=0.7, momentum=0.9)"
SENDERS, AVERAGE = "sgd(lr=1.0, mean='senders')", "sgd(lr=1.0)"
BASE = Training("language", workers=4, model="gpt128", batch=4, steps=STEPS, optimizer="adamw", evaluate_every=200)
SWEPT = {
    "dense": BASE,
    "default": replace(BASE, exchange=SPARSE, local=LocalSteps(10, SENDERS)),
    "DiLoCo": replace(BASE, local=LocalSteps(10, NESTEROV)),
}
"""Methods whose learning rate is swept, with 10 local steps."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--seed", type=int, action="append", help="long runs of these seeds only; several processes may share the work"
    )
    seeds = parser.parse_args().seed or list(SEEDS)
    torch.set_num_threads(1)
    rates = {name: swept(name, training) for name, training in SWEPT.items()}
    print(rates, flush=True)
    for label, training in planned(rates):
        if training.seed in seeds:
            result(label, training)


def planned(rates: dict[str, float]) -> Iterator[tuple[str, Training]]:
    """Yield the long runs, the most important ones first."""
    for seed in SEEDS:
        dense = replace(BASE, seed=seed, learning_rate=rates["dense"])
        sparse = replace(BASE, seed=seed, learning_rate=rates["default"], exchange=SPARSE)
        yield "dense", dense
        yield "default, H = 10", replace(sparse, local=LocalSteps(10, SENDERS))
        yield "default, H = 4", replace(sparse, local=LocalSteps(4, SENDERS))
        if seed == SEEDS[0]:
            yield "no decay, H = 10", replace(sparse, exchange=KEEPING, local=LocalSteps(10, SENDERS))
            yield "unlike: dense", replace(dense, unlike=True)
            yield "unlike: default, H = 10", replace(sparse, local=LocalSteps(10, SENDERS), unlike=True)
    for name, rate, outer in (("DiLoCo", rates["DiLoCo"], NESTEROV), ("average", rates["default"], AVERAGE)):
        for steps in (10, 4):
            yield f"{name}, H = {steps}", replace(BASE, learning_rate=rate, local=LocalSteps(steps, outer))


def swept(name: str, training: Training) -> float:
    """Find the learning rate with the lowest final loss of a short run; it is never at the edge of those tried."""
    rates = list(RATES)
    while True:
        short = replace(training, steps=SWEEP_STEPS, evaluate_every=SWEEP_STEPS)
        losses = {rate: result(f"sweep: {name}", replace(short, learning_rate=rate))["loss"] for rate in sorted(rates)}
        best = min(losses, key=losses.__getitem__)
        if best not in (min(rates), max(rates)):
            return best
        rates.append(2 * best if best == max(rates) else best / 2)


def result(label: str, training: Training) -> dict[str, Any]:
    """Look up a run, or train it and record it."""
    known = read()
    settings = json.loads(json.dumps(asdict(training.filled())))
    for run in known["runs"]:
        if run["training"] == settings:
            return run
    began = time.perf_counter()
    found = summary(label, train(training), settings) | {"seconds": round(time.perf_counter() - began, 1)}
    with RESULTS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read()
        known["runs"].append(found)
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    print(f"{label}, lr {training.learning_rate}, seed {training.seed}: {found['loss']:.4f}, "
          f"{found['megabytes']:.3f} MB, {found['seconds']:.0f} s", flush=True)  # fmt: skip
    return found


def read() -> dict[str, Any]:
    """All recorded runs."""
    return (
        json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"versions": records.platform_versions(), "runs": []}
    )


def summary(label: str, history: History, settings: dict[str, Any]) -> dict[str, Any]:
    """The record of a run. megabytes: sent by a worker in the whole run."""
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
