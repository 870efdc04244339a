"""Write the tables of docs/speed.md between their markers, from results/*.json: python benchmarks/speed_page.py

The sections of race.py and peers.py are written by these scripts with --table.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from map import choice
from rows import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"


def main() -> None:
    text = PAGE.read_text()
    for name, table in (
        ("map", crossover()),
        ("advice", rows("map")),
        ("latest", rows("latest")),
        ("race-sgd", rows("race_sgd")),
        ("half-step", half_steps()),
        ("half-loss", half_losses()),
    ):
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = marked.sub(lambda found, table=table: found[1] + table + found[2], text)
    PAGE.write_text(text)


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def rows(name: str) -> str:
    """A table of values and bars."""
    found = read(name)
    found = found if isinstance(found, list) else found["rows"]
    lines = [
        f"| {each['name']} | {each['value']:.3g} | {each['bar'] or ''} | {said(each['holds'])} |\n" for each in found
    ]
    return "| what | value | bar | holds |\n|---|---:|---:|---|\n" + "".join(lines)


def said(holds: bool | None) -> str:
    return "" if holds is None else "yes" if holds else "**no**"


def half_steps() -> str:
    """A line for every model and method: the ratio with its quartiles."""
    found = {each["name"]: each["value"] for each in read("half_step")}
    lines = ["| | ms with float32 | bfloat16, of float32 | quartiles |\n|---|---:|---:|---:|\n"]
    for name in dict.fromkeys(name.partition(":")[0] for name in found):
        low, high = (found[f"{name}: {which} quartile"] for which in ("first", "third"))
        ms, times = found[f"{name}: ms with float32"], found[f"{name}: bfloat16 / float32"]
        lines.append(f"| {name} | {ms:.1f} | {times:.2f} | {low:.2f} to {high:.2f} |\n")
    return "".join(lines)


def half_losses() -> str:
    """A line for every density and kind: mean and standard error of the difference to float32, seed by seed."""
    lines = ["| density, learning rate | kept | seeds | loss | more than float32 |\n|---|---|---:|---:|---:|\n"]
    runs = read("half_loss")["runs"]
    losses: dict[tuple[str, str], dict[int, float]] = {}
    for run in sorted(runs, key=lambda run: run["density"]):
        at = f"{100 * run['density']:g} %, {run['lr']:g}"
        losses.setdefault((at, run["kind"]), {})[run["seed"]] = run["loss"]
    for (at, kind), by_seed in losses.items():
        gaps = [loss - losses[at, "float32"][seed] for seed, loss in by_seed.items()]
        more = "" if kind == "float32" else f"{mean(gaps):+.3f} ± {stdev(gaps) / len(gaps) ** 0.5:.3f}"
        lines.append(f"| {at} | {kind} | {len(by_seed)} | {mean(by_seed.values()):.3f} | {more} |\n")
    return "".join(lines)


def crossover() -> str:
    """A line for every model and method, a column for every link; the fastest is bold, the advised one has a star."""
    cells = read("map")["cells"]
    rates = list(dict.fromkeys(cell["rate"] for cell in cells))
    lines = [
        f"| model | method | {' | '.join(rate or 'loopback' for rate in rates)} |\n|---|---|{'---:|' * len(rates)}\n"
    ]
    for model in dict.fromkeys(cell["model"] for cell in cells):
        found = {cell["rate"]: cell for cell in cells if cell["model"] == model}
        for name in dict.fromkeys(name for cell in found.values() for name in cell["measured"]):
            lines.append(f"| {model} | `{name}` | {' | '.join(ratio(found.get(rate), name) for rate in rates)} |\n")
    return "".join(lines)


def ratio(cell: dict[str, Any] | None, name: str) -> str:
    if cell is None or name not in cell["measured"]:
        return ""
    seconds = cell["measured"][name]
    text = f"{seconds / cell['compute']:.3g}"
    text = f"**{text}**" if seconds == min(cell["measured"].values()) else text
    return text + ("*" if name == choice(cell) else "")


if __name__ == "__main__":
    main()
