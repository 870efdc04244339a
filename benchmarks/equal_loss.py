"""Step times at 10 Mbit/s on the GPT of methods that reach the same loss under SGD: gradwire against the best of torch's hooks.

    python benchmarks/equal_loss.py

Losses come from results/race_sgd.json (run race_sgd.py first): a gradwire method counts if its loss after STEPS steps is no higher than
that of torch's fastest hook here, with the same model, batches, seed and optimizer. Steps are measured on the built-in GPT, which
differs only in the length of a sequence, all methods in one run. Writes results/equal_loss.json.
"""

from __future__ import annotations

import dataclasses
import itertools
import json

from race_sgd import OURS
from rows import RESULTS, Row, row, show, write

from gradwire.lab import bench

STEPS = 200
TORCH = ("powersgd1", "powersgd2")
"""Without dense and fp16, which would take 36 and 18 seconds a step."""

BUCKET_MB = 4.0
"""For gradwire: on so slow a wire, small units hide more of the communication under the backward pass."""


def main() -> None:
    losses = {
        run["spec"]: loss_at(run["points"], STEPS)
        for run in json.loads((RESULTS / "race_sgd.json").read_text())["runs"]
    }
    plan = bench.BenchPlan(
        model="gpt", methods=(*TORCH, *OURS), rates=("10mbit",), steps=20, seconds=25, bucket_mb=BUCKET_MB
    )
    sheet = bench.run(plan)
    rows = judge({each.method: each.step for each in sheet.measured}, losses)
    show(rows)
    write("equal_loss.json", {"rows": rows, "cells": [dataclasses.asdict(each) for each in sheet.measured]})


def judge(seconds: dict[str, float], losses: dict[str, float]) -> list[Row]:
    """Make the rows; the bar is a step of at most 0.6 of that of the best of torch's hooks."""
    best = min(TORCH, key=seconds.__getitem__)
    equal = [way for way in OURS if losses[way] <= losses[best]]
    rows = [row(f"{way}: loss after {STEPS} steps", losses[way]) for way in (*TORCH, *OURS)]
    rows += [row(f"{way}: step at 10 Mbit/s in steps of {best}", seconds[way] / seconds[best]) for way in OURS]
    ratio = min((seconds[way] / seconds[best] for way in equal), default=float("inf"))
    return [*rows, row("step at 10 Mbit/s at equal loss, in steps of the best of torch's hooks", ratio, most=0.6)]


def loss_at(points: list[dict[str, float]], step: int) -> float:
    """The held-out loss at a step, interpolated linearly between two evaluations."""
    for before, after in itertools.pairwise(points):
        if before["step"] <= step <= after["step"]:
            fraction = (step - before["step"]) / max(1, after["step"] - before["step"])
            return before["loss"] + fraction * (after["loss"] - before["loss"])
    raise ValueError(f"no loss after {step} steps, only after {points[-1]['step']}")


if __name__ == "__main__":
    main()
