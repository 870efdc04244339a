"""The time of a step on a slow link, in units of a step without communication: gradwire's and torch's own methods, in one run.

    python benchmarks/steps.py [--model mlp] [--rate 100mbit] [--torch] [--seconds 40]

Two ranks, one thread each, on links between network namespaces. --torch also measures torch's methods, of which dense takes minutes at
100 Mbit/s; without it only gradwire's are run. Writes results/steps.json if all models and rates are measured.
"""

from __future__ import annotations

import argparse
import dataclasses

from rows import Row, row, show, write

from gradwire.lab import bench

OURS = (
    "ef(topk(density=0.01, values='natural'))",
    "ef(topk(density=0.01, values='bits2'))",
    "ef(topk(density=0.01))",
    "ef(deft(density=0.01, overlap=true))",
)
SHARED = "ef(sharedrandk(density=0.01, unbiased=false))"
"""Needs no selection, which is best on a fast wire. Measured above 100 Mbit/s only, where the bar is for Top-k and DEFT."""
TORCH = ("dense", "fp16", "powersgd1", "powersgd2", "powersgd4")
ROUNDS = ("local(every=10)", "local(every=30)")
"""Local steps, which exchange once a round; their step is the mean of a round's steps."""
BARS = {
    ("mlp", "100mbit"): 1.5,
    ("gpt", "100mbit"): 1.03,
    ("resnet18", "100mbit"): 1.15,
    ("mlp", "1gbit"): 1.35,
    ("gpt", "1gbit"): 1.02,
    ("resnet18", "1gbit"): 1.06,
}
"""The bar for the best of gradwire's methods, in steps without communication."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", action="append", choices=["mlp", "gpt", "resnet18"])
    parser.add_argument("--rate", action="append", choices=["100mbit", "1gbit"])
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--seconds", type=float, default=40, help="for each method, model and rate")
    chosen = parser.parse_args()
    beside = TORCH if chosen.torch else ()
    rows: list[Row] = []
    cells: list[dict[str, object]] = []
    for model in chosen.model or ("mlp", "gpt", "resnet18"):
        for rate in chosen.rate or ("100mbit", "1gbit"):
            found, sheet = measure(model, rate, beside, chosen.seconds)
            show(found)
            rows += found
            cells += [dataclasses.asdict(each) for each in sheet.measured]
    if not chosen.model and not chosen.rate:
        write("steps.json", {"rows": rows, "cells": cells})


def measure(model: str, rate: str, beside: tuple[str, ...] = (), seconds: float = 40) -> tuple[list[Row], bench.Sheet]:
    """Measure gradwire's methods, and those in `beside`, on one link; return a row for each, and two rows with the bar.

    These are the best of gradwire's methods that exchange at every step, and the best of all of gradwire's methods.
    """
    ours = OURS if rate == "100mbit" else (*OURS, SHARED)
    sheet = bench.run(
        bench.BenchPlan(model=model, methods=(*ours, *ROUNDS, *beside), rates=(rate,), steps=25, seconds=seconds)
    )
    ratios = {each.method: sheet.ratio(each, "none") for each in sheet.measured}
    every, bar, where = min(ratios[method] for method in ours), BARS[model, rate], f"{model} at {rate}"
    rows = [row(f"step of {method}, {where}", ratio) for method, ratio in ratios.items() if method != "none"]
    rows.append(row(f"step of the best that exchanges every step, {where}", every, most=bar))
    return [
        *rows,
        row(f"step of the best of gradwire, {where}", min(every, *(ratios[method] for method in ROUNDS)), most=bar),
    ], sheet


if __name__ == "__main__":
    main()
