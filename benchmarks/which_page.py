"""Write the table of measurements in docs/which.md between its markers: python benchmarks/which_page.py"""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

from adam_page import best
from rows import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "which.md"


def main() -> None:
    marked = re.compile(r"(<!-- grounds -->\n).*?(<!-- /grounds -->)", re.DOTALL)
    PAGE.write_text(marked.sub(lambda found: found[1] + grounds() + found[2], PAGE.read_text()))


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def grounds() -> str:
    """A line for every measurement on which the page's advice is based."""
    head = "| measured | dense DDP | the best of torch | gradwire |\n|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in (*races(), sgd(), *losses(), every_step(), fast()))


def races() -> list[tuple[str, ...]]:
    """Seconds to dense's loss under AdamW."""
    found = {row["name"]: row["value"] for row in read("race")["rows"]}
    rows: list[tuple[str, ...]] = []
    for rate, words in (("10mbit", "10 Mbit/s"), ("100mbit", "100 Mbit/s")):
        dense, torchs, ours = (
            found[f"{rate}: seconds to dense's loss, {name}"] for name in ("dense", "powersgd8", "local(every=10)")
        )
        what = f"seconds to dense's loss at {words}, GPT of 10.8 M, AdamW ([race](speed.md#loss-over-wall-clock-time))"
        rows.append((what, f"{dense:,.0f}", f"PowerSGD rank 8: {torchs:,.0f}", f"`local(every=10)`: {ours:,.0f}"))
    return rows


def sgd() -> tuple[str, ...]:
    """Seconds to dense's loss under SGD."""
    found = {row["name"]: row["value"] for row in read("race_sgd")["rows"]}
    spec = "ef(topk(density=0.01, values='natural'))"
    dense, torchs, ours = (found[f"seconds to dense's loss, {name}"] for name in ("dense", "powersgd4", spec))
    what = "the same at 100 Mbit/s, SGD with momentum ([race](speed.md#the-same-race-under-sgd))"
    return what, f"{dense:,.0f}", f"PowerSGD rank 4: {torchs:,.0f}", f"`{spec}`: {ours:,.0f}"


def losses() -> list[tuple[str, ...]]:
    """Held-out losses of local steps and dense after equal numbers of steps."""
    runs = read("local_lab")["runs"]

    def loss(label: str) -> float:
        return mean(run["loss"] for run in runs if run["label"] == label)

    what = "loss after 2,000 steps, four workers, AdamW ([table](local-lab.md#two-thousand-steps))"
    ours = f"`every=4`: {loss('default, H = 4'):.3f}; `every=10`: {loss('default, H = 10'):.3f}"
    grown = {(run["every"], bool(run["grow"])): mean(run["losses"]) for run in read("local_warmup")}
    short = "loss after 400 steps, `every=30` ([rounds that grow](local-lab.md#rounds-that-grow))"
    both = f"`every=30`: {grown[30, False]:.2f}; `Every(30, warmup_steps=100)`: {grown[30, True]:.2f}"
    return [(what, f"{loss('dense'):.3f}", "", ours), (short, "", "", both)]


def every_step() -> tuple[str, ...]:
    """Held-out losses of methods that average at every step under AdamW."""
    ends = {row["label"]: mean(row["losses"]) for row in best()}
    ours = "; ".join(
        f"{name}: {ends[label]:.2f}"
        for name, label in (
            ("Top-k of 1 %", "EF(Top-k) 1 %"),
            ("of 10 %", "EF(Top-k) 10 %"),
            ("of 1 % of the update", "EF(Top-k) 1 % of the update"),
        )
    )
    return (
        "loss after 300 steps, every step averaged, AdamW ([ways](adam.md#what-helps))",
        f"{ends['dense']:.2f}",
        "",
        ours,
    )


def fast() -> tuple[str, ...]:
    """Steps on a fast link."""
    cells = [cell for cell in read("map")["cells"] if cell["rate"] == "10gbit" and cell["model"] == "gpt"]
    steps = {name: seconds / cells[0]["compute"] for name, seconds in cells[0]["measured"].items()}
    ours = min((value, name) for name, value in steps.items() if name.startswith("ef("))
    what = "a step at 10 Gbit/s in steps without communication, GPT ([map](speed.md#where-compression-pays))"
    return what, f"{steps['dense']:.2f}", f"PowerSGD rank 1: {steps['powersgd1']:.2f}", f"`{ours[1]}`: {ours[0]:.2f}"


if __name__ == "__main__":
    main()
