"""The crossover map: the time of a step by bandwidth, model and method, with the prediction of `gradwire advise`.

    python benchmarks/map.py [--model mlp] [--rate 100mbit] [--draw]

Two ranks, one thread each, on links between network namespaces. A cell is one model on one link: its methods are predicted, and then
measured by the same processes. Writes docs/figures/crossover.{csv,json,png} and results/map.json; half an hour. With --model or --rate
only these cells are measured again; --draw measures nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

from rows import RESULTS, Row, row, show, write

from gradwire import net
from gradwire.advice import CANDIDATES, Method
from gradwire.advice import judge as advise
from gradwire.lab.bench.advised import Question
from gradwire.lab.bench.advising import ask
from gradwire.lab.studies import chart
from gradwire.lab.studies.draw import draw

MODELS = ("mlp", "gpt", "resnet18")
RATES = ("10mbit", "100mbit", "500mbit", "1gbit", "10gbit", None)
TORCH = ("powersgd1",)
"""Measured without a prediction: advice only predicts gradwire's methods, dense and fp16."""

LOSS = 1.05
"""The bar for the worst recommendation, as a multiple of dense's step."""

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
LOOPBACK = 4e4
"""The place of loopback on an axis of Mbit/s."""

Cell = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--rate", action="append", choices=[rate or "loopback" for rate in RATES])
    parser.add_argument("--draw", action="store_true")
    chosen = parser.parse_args()
    file = RESULTS / "map.json"
    cells: list[Cell] = json.loads(file.read_text())["cells"] if file.exists() else []
    for model in () if chosen.draw else chosen.model or MODELS:
        for rate in RATES:
            if not chosen.rate or (rate or "loopback") in chosen.rate:
                began = time.perf_counter()
                fresh = measure(model, rate)
                cells = [cell for cell in cells if (cell["model"], cell["rate"]) != (model, rate)] + [fresh]
                print(
                    f"{model} at {rate or 'loopback'} in {time.perf_counter() - began:.0f} s: {choice(fresh)}",
                    flush=True,
                )
                print(json.dumps(fresh["measured"]), "\n", json.dumps(fresh["predicted"]), flush=True)
                write("map.json", {"rows": judge(cells), "cells": cells})
    cells.sort(key=lambda cell: (MODELS.index(cell["model"]), RATES.index(cell["rate"])))
    rows = judge(cells)
    show(rows)
    write("map.json", {"rows": rows, "cells": cells})
    picture = figure(cells)
    chart.write(picture, FIGURES, "python benchmarks/map.py")
    draw(picture, FIGURES / "crossover.png")


def measure(model: str, rate: str | None) -> Cell:
    """Predict and measure all methods of a cell, in seconds of a step."""
    question = Question(model, CANDIDATES, check=True, beside=TORCH, steps=8, seconds=6.0)
    advised = ask(question, 2, rate)
    predicted = {method.name: method.seconds for method in advised.verdict.methods if math.isfinite(method.seconds)}
    return {
        "model": model,
        "rate": rate,
        "compute": advised.measured["none"],
        "predicted": predicted,
        "measured": {name: seconds for name, seconds in advised.measured.items() if name != "none"},
    }


def choice(cell: Cell) -> str:
    """The method that advice recommends for a cell, from its predictions."""
    return advise([Method(name, seconds) for name, seconds in cell["predicted"].items()]).choice


def judge(cells: list[Cell]) -> list[Row]:
    """Make the rows: how good the predictions were."""
    errors: list[float] = []
    right, worst = 0, 0.0
    for cell in cells:
        predicted, measured = cell["predicted"], cell["measured"]
        errors += [abs(predicted[name] / measured[name] - 1) for name in predicted]
        known = {name: measured[name] for name in predicted}
        # Methods whose steps differ by less than their spread count as equally fast.
        right += measured[choice(cell)] <= 1.03 * min(known.values())
        worst = max(worst, measured[choice(cell)] / measured["dense"])
    return [
        row("advise, median error of predicted steps", statistics.median(errors), most=0.15),
        row("advise, share of cells whose choice is within 3 % of the fastest", right / len(cells), least=0.8),
        row("advise, the worst choice in steps of dense", worst, most=LOSS),
    ]


def figure(cells: list[Cell]) -> chart.Chart:
    """A panel for each model: every method's step divided by the step without communication."""
    models = [model for model in MODELS if any(cell["model"] == model for cell in cells)]
    names = list(dict.fromkeys(name for cell in cells for name in cell["measured"]))
    lines: list[chart.Line] = []
    for model in models:
        found = [cell for cell in cells if cell["model"] == model]
        x = tuple(LOOPBACK if cell["rate"] is None else net.parse_rate(cell["rate"]) / 1e6 for cell in found)
        for name in names:
            lines.append(chart.Line(model, name, x, tuple(cell["measured"][name] / cell["compute"] for cell in found)))
    panels = tuple(
        chart.Panel(model, "Mbit/s (40,000: loopback)", "step / step without communication", True, True, level=1.0)
        for model in models
    )
    facts = tuple(
        {"model": cell["model"], "rate": cell["rate"] or "loopback", "method": name, "milliseconds": 1e3 * seconds,
         "times_compute": seconds / cell["compute"], "times_dense": seconds / cell["measured"]["dense"],
         "predicted_milliseconds": 1e3 * cell["predicted"][name] if name in cell["predicted"] else None,
         "chosen": name == choice(cell)}
        for cell in cells
        for name, seconds in cell["measured"].items()
    )  # fmt: skip
    caption = "Two ranks, one thread each. Measured medians; gradwire's units are DDP's own buckets of 25 MB."
    return chart.Chart("crossover", "What a step costs by bandwidth", caption, panels, tuple(lines), facts)


if __name__ == "__main__":
    main()
