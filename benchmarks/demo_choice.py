"""Choose the demo's methods: PowerSGD's rank, the best per-step method, and one learning rate, by the time to dense's final loss.

    python benchmarks/demo_choice.py [--seconds 50] [--only WAY ...] [--table]

It runs the demo's job on its link with two ranks: dense with each of RATES for the demo's time, then every other method with the best
of these rates until it reaches dense's loss. Finished runs are kept in results/demo_choice.json and not repeated. About ten minutes.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from rows import RESULTS, write

from gradwire.lab.comparison.job import TrainingJob
from gradwire.lab.comparison.on_ranks import execute

RATE, RATES = "100mbit", (1e-3, 2e-3, 4e-3)
WAYS = (
    *(f"powersgd{rank}" for rank in (1, 2, 4, 8)),
    "int8allreduce(workers=2)",
    "dithering(s=7)",
    "ef(scaledsign)",
    "ef(topk(density=0.1, values='bits4'))",
    "ef(topk(density=0.3, values='bits4'))",
    "local(every=4)",
    "local(every=10)",
    "local(every=30)",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=50.0)
    parser.add_argument("--only", action="append", choices=WAYS)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    chosen = parser.parse_args()
    for rate in () if chosen.table else RATES:
        run("dense", rate, chosen.seconds, None)
    best = min((each for each in read() if each["way"] == "dense"), key=lambda each: each["loss"])
    for way in () if chosen.table else chosen.only or WAYS:
        run(way, best["rate"], chosen.seconds, best["loss"])
    print("| way | learning rate | ms a step | MB a step | seconds | held-out loss |\n|---|---:|---:|---:|---:|---:|")
    for each in sorted(read(), key=lambda each: (each["loss"] > best["loss"], each["seconds"])):
        figures = f"{1e3 * each['step_seconds']:.0f} | {each['mb']:.3g} | {each['seconds']:.1f} | {each['loss']:.3f}"
        print(f"| `{each['way']}` | {each['rate']:g} | {figures} |")


def read() -> list[dict[str, Any]]:
    file = RESULTS / "demo_choice.json"
    return json.loads(file.read_text()) if file.exists() else []


def run(way: str, rate: float, seconds: float, target: float | None) -> None:
    """Train once, unless the run is recorded already."""
    if any((each["way"], each["rate"]) == (way, rate) for each in read()):
        return
    done = execute(way, TrainingJob(way, seconds=seconds, learning_rate=rate, target=target), 2, RATE)
    last = done.points[-1]
    figures = {"steps": last.step, "seconds": last.seconds, "loss": last.loss, "step_seconds": done.step_seconds}
    record = {"way": way, "rate": rate, **figures, "mb": done.ledger_bytes / max(1, last.step) / 1e6}
    write("demo_choice.json", [*read(), record])
    print(record, flush=True)


if __name__ == "__main__":
    main()
