"""The model of gradwire scale compared with real ranks: exchanges of 2, 4 and 8 processes in network namespaces, without training.

    python benchmarks/scale_check.py [--size 8] [--rounds 5] [--rate 8mbit]

Every rank exchanges random gradients of a small model; a step lasts until the slowest rank has the mean. The prediction is that of
`gradwire scale`: rehearsed computing, plus hops * latency + traffic / rate for every collective. Two things differ from as many machines
and are calibrated: the ranks share the cores, so computing takes ranks / cores times as long; and latency and bandwidth are measured for
each number of ranks and kind, by collectives of a few bytes and of a quarter of a megabyte. The link is slow, so that the wire is most of
a step. Each number of ranks takes a minute or two; with --size only this one is measured again. Writes results/scale_check.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rows import RESULTS, Row, row, show, write
from scale_ranks import UNIT, Case, Found, gradients, measure, model

from gradwire.advice.network import HOPS
from gradwire.lab import remote, scale

SIZES, RATE = (2, 4, 8), "8mbit"
METHODS = (
    "dense",
    "ef(topk(density=0.01))",
    "ef(topk(density=0.05, values='natural'))",
    "ef(topk(density=0.0156, values='bits2'))",
    "ef(sharedrandk(density=0.02, unbiased=false))",
    "ef(deft(density=0.02))",
    "ef(oktopk(density=0.02))",
    "ef(uniontopk(density=0.01))",
    "powersgd(rank=4)",
    "islands(mean, ef(topk(density=0.02)), size=2)",
)


OTHERS = 100
"""The first seed of rehearsed workers, so that their gradients are like the ranks' but not the same."""


def predict(method: str, size: int, found: Found) -> float:
    """Predict the seconds of an exchange: rehearsed computing on shared cores, and the collectives."""
    net = model()
    named = list(net.named_parameters())
    work = scale.work_of(method, named, [gradients(net, OTHERS + rank) for rank in range(size)], size, UNIT)
    if work.refusal:
        raise SystemExit(f"{method}: {work.refusal}")
    ranks_per_core = max(1.0, size / (os.cpu_count() or 1))
    wire = 0.0
    for course in work.courses:
        for ask in course.asks:
            among = size if ask.axis is None else ask.axis.size
            hops = HOPS[ask.kind]
            latency = found.latency[ask.kind] * hops(among) / hops(size)
            wire += (latency + ask.traffic / found.rate[ask.kind]) if among > 1 else 0.0
    return ranks_per_core * (work.selection + work.decode) + wire


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, action="append", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", default=RATE)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    file = RESULTS / "scale_check.json"
    before: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    cells: list[dict[str, Any]] = [] if before.get("rate") != chosen.rate else before["cells"]
    for size in chosen.size or SIZES:
        began = time.perf_counter()
        case = Case(METHODS, chosen.rounds)
        found = remote.run(measure, case, size, name=f"{size} ranks", rate=chosen.rate, timeout=600)
        cells = [cell for cell in cells if cell["ranks"] != size]
        cells.append({
            "ranks": size, "load": found.load, "bytes_a_second": found.rate, "latency": found.latency,
            "measured": found.steps, "low": found.low, "high": found.high,
            "predicted": {method: predict(method, size, found) for method in METHODS},
        })  # fmt: skip
        cells.sort(key=lambda cell: cell["ranks"])
        print(f"{size} ranks in {time.perf_counter() - began:.0f} s, load {found.load:.1f}", flush=True)
        for method in METHODS:
            one, two = cells_of(cells, size)["predicted"][method], found.steps[method]
            spread = f"[{1e3 * found.low[method]:.0f}-{1e3 * found.high[method]:.0f}]"
            print(f"  {method:<48}{1e3 * one:8.1f} ms predicted{1e3 * two:8.1f} measured {spread} {one / two - 1:+.1%}")
        write("scale_check.json", {"rate": chosen.rate, "rows": judge(cells), "cells": cells})
    show(judge(cells))


def cells_of(cells: list[dict[str, Any]], size: int) -> dict[str, Any]:
    return next(cell for cell in cells if cell["ranks"] == size)


def judge(cells: list[dict[str, Any]]) -> list[Row]:
    """Make the rows: errors over all methods and numbers of ranks, and pairs of methods in the right order."""
    errors: list[float] = []
    right: list[bool] = []
    for cell in cells:
        predicted, measured = cell["predicted"], cell["measured"]
        errors += [abs(predicted[method] / measured[method] - 1) for method in predicted]
        pairs = itertools.combinations(predicted, 2)
        right += [(predicted[a] < predicted[b]) == (measured[a] < measured[b]) for a, b in pairs]
    return [
        row("scale, median error of predicted exchanges", statistics.median(errors), most=0.12),
        row("scale, the largest error", max(errors)),
        row("scale, pairs of methods in the right order", sum(right) / len(right), least=0.9),
    ]


if __name__ == "__main__":
    main()
