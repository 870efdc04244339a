"""The race of race.py under SGD, without local steps: at 100 Mbit/s, which method first reaches the loss of dense DDP's 200 steps?

    python benchmarks/race_sgd.py [--steps 240] [--only NAME ... [--loopback]]

All methods train a GPT of 10.7 million parameters on the source of Python's standard library, on two ranks with one thread each, with the
same batches, seed and optimizer: SGD with momentum 0.8, learning rate LEARNING_RATE, gradients clipped to norm 1. They train on the link,
except dense DDP and torch's fp16 hook, whose steps take seconds there: these train on loopback, where losses are the same, and their time
is the number of steps times a step on the link, the median of ten. Writes results/race_sgd.json; a quarter of an hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from rows import RESULTS, Row, row, show, write

from gradwire.lab.comparison.job import TrainingJob
from gradwire.lab.comparison.on_ranks import execute
from gradwire.lab.comparison.record import Comparison, Point, Run, Split
from gradwire.lab.ways import is_torch

RATE, LEARNING_RATE = "100mbit", 0.08
MODEL = {"width": 384, "depth": 6, "heads": 6, "context": 64, "batch": 4}
DENSE_STEPS = 200
SLOW = ("dense", "fp16")
TORCH = ("dense", "powersgd1", "powersgd2")
"""Without fp16, at half of dense's bytes, and PowerSGD of higher ranks, which take longer: add them with --only."""

OURS = (
    "ef(topk(density=0.03, values='natural'))",
    "ef(topk(density=0.01, values='natural'))",
    "ef(topk(density=0.003, values='natural'))",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=240, help="steps of all methods but dense")
    parser.add_argument("--only", action="append", help="run only these, and keep the earlier runs")
    parser.add_argument("--loopback", action="store_true", help="train all on loopback, as dense")
    chosen = parser.parse_args()
    runs = read() if chosen.only else {}
    for way in chosen.only or (*TORCH, *OURS):
        runs[way] = run(way, DENSE_STEPS if way == "dense" else chosen.steps, chosen.loopback or way in SLOW)
        points = [(point.step, round(point.seconds, 1), round(point.loss, 4)) for point in runs[way].points]
        print(f"{way}: {1e3 * runs[way].step_seconds:.0f} ms a step\n  {points}", flush=True)
    rows = judge(list(runs.values()))
    show(rows)
    write("race_sgd.json", {"rows": rows, "runs": [dataclasses.asdict(each) for each in runs.values()]})


def read() -> dict[str, Run]:
    """Earlier runs, by method."""
    found = json.loads((RESULTS / "race_sgd.json").read_text())["runs"]
    parts = [
        {**each, "points": tuple(Point(**at) for at in each["points"]), "split": Split(**each["split"])}
        for each in found
    ]
    return {each["spec"]: Run(**each) for each in parts}


def run(way: str, steps: int, loopback: bool) -> Run:
    """Train; on loopback, replace seconds by the number of steps times a step measured on the link."""
    sgd = {"optimizer": "sgd", "learning_rate": LEARNING_RATE, "floor": 1.0}
    job = TrainingJob(way, steps=steps, seconds=1e6, evaluate_every=12.0, **sgd, **MODEL)
    done = execute(way, job, 2, None if loopback else RATE)
    if not loopback:
        return done
    timed = execute(way, dataclasses.replace(job, steps=10, evaluate_every=1e6), 2, RATE)
    points = tuple(dataclasses.replace(at, seconds=at.step * timed.step_seconds, sent_bytes=0) for at in done.points)
    return dataclasses.replace(timed, points=points)


def judge(runs: list[Run]) -> list[Row]:
    """Make the rows: seconds to dense's final loss, and the best of gradwire against dense and the best of torch's hooks."""
    comparison = Comparison("", "", "", RATE, 2, 0.0, "", {}, "", tuple(runs))
    seconds = {each.spec: comparison.seconds_to_baseline(each) or float("inf") for each in runs}
    torchs = min(each for way, each in seconds.items() if is_torch(way))
    ours = min(each for way, each in seconds.items() if not is_torch(way))
    rows = [row(f"seconds to dense's loss, {way}", value) for way, value in seconds.items()]
    rows = [each for each in rows if each["value"] != float("inf")]  # methods that did not reach the loss have no time
    return [
        *rows,
        row("loss over wall-clock, times faster than dense", seconds["dense"] / ours, least=6),
        row("loss over wall-clock, times faster than the best of torch's hooks", torchs / ours, least=1.2),
    ]


if __name__ == "__main__":
    main()
