"""Loss over wall-clock time at 100 Mbit/s: who is first at the loss that dense DDP has after its first 200 steps?

    python benchmarks/race.py [--steps 200] [--only NAME ...]

A GPT of 10.7 million parameters on the source of Python's standard library, two ranks, one thread each; the same model, batches, seed
and optimizer for all: SGD with momentum 0.8, learning rate LEARNING_RATE, gradients clipped at norm 1. Everybody trains on the link but
dense DDP and torch's fp16 hook, whose steps take seconds there: they train on loopback, where every loss is the same, and their clock is
the number of steps times a step on the link, the median of ten. Writes results/race.json; a quarter of an hour.
"""

from __future__ import annotations

import argparse
import dataclasses

from rows import Row, row, show, write

from gradwire.lab import compare
from gradwire.lab.job import Job
from gradwire.lab.results import Comparison, Run

RATE, LEARNING_RATE = "100mbit", 0.08
MODEL = {"width": 384, "depth": 6, "heads": 6, "context": 64, "batch": 4}
SLOW = ("dense", "fp16")
TORCH = ("dense", "powersgd1", "powersgd2")
"""fp16, at half of dense's bytes, and PowerSGD of higher ranks, which takes longer, are out of the race; see --only."""

OURS = (
    "ef(topk(density=0.03, values='natural'))",
    "ef(topk(density=0.01, values='natural'))",
    "ef(topk(density=0.003, values='natural'))",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200, help="of dense; the others may take a fifth more")
    parser.add_argument("--only", action="append")
    chosen = parser.parse_args()
    runs: list[Run] = []
    for way in chosen.only or (*TORCH, *OURS):
        runs.append(run(way, chosen.steps if way == "dense" else chosen.steps * 6 // 5))
        points = [(point.step, round(point.seconds, 1), round(point.loss, 4)) for point in runs[-1].points]
        print(f"{way}: {1e3 * runs[-1].step_seconds:.0f} ms a step\n  {points}", flush=True)
    if not chosen.only:
        rows = judge(runs)
        show(rows)
        write("race.json", {"rows": rows, "runs": [dataclasses.asdict(each) for each in runs]})


def run(way: str, steps: int) -> Run:
    """Train; of a slow way count the steps on the link."""
    every = 12.0
    job = Job(way, steps=steps, seconds=1e6, learning_rate=LEARNING_RATE, evaluate_every=every, **MODEL)
    done = compare.execute(way, job, 2, None if way in SLOW else RATE)
    if way not in SLOW:
        return done
    timed = compare.execute(way, dataclasses.replace(job, steps=10, evaluate_every=1e6), 2, RATE)
    points = tuple(dataclasses.replace(at, seconds=at.step * timed.step_seconds, sent_bytes=0) for at in done.points)
    return dataclasses.replace(timed, points=points)


def judge(runs: list[Run]) -> list[Row]:
    """How much sooner each is where dense is at its end, and the best of gradwire against dense and the best of torch's."""
    comparison = Comparison("", "", "", RATE, 2, 0.0, "", {}, "", tuple(runs))
    seconds = {each.spec: comparison.seconds_to_baseline(each) or float("inf") for each in runs}
    ours, torchs = (min(seconds[way] for way in ways) for ways in (OURS, TORCH))
    rows = [row(f"seconds to dense's loss, {way}", value) for way, value in seconds.items()]
    return [
        *rows,
        row("loss over wall-clock, times as soon as dense", seconds["dense"] / ours, least=6),
        row("loss over wall-clock, times as soon as the best of torch's hooks", torchs / ours, least=1.2),
    ]


if __name__ == "__main__":
    main()
