"""Write the table of results/local_lab.json into docs/local-lab.md, between its markers: python benchmarks/local_page.py"""

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parents[1]
Run = dict[str, Any]


def main() -> None:
    page = ROOT / "docs" / "local-lab.md"
    marked = re.compile(r"(<!-- local-lab -->\n).*?(<!-- /local-lab -->)", re.DOTALL)
    page.write_text(marked.sub(lambda found: found[1] + table() + found[2], page.read_text()))


def table() -> str:
    """A row for each method: its loss, its distance to dense steps of the same seeds and data, and bytes."""
    runs: dict[str, list[Run]] = {}
    for run in json.loads((ROOT / "benchmarks" / "results" / "local_lab.json").read_text())["runs"]:
        if not run["label"].startswith("sweep"):
            runs.setdefault(run["label"], []).append(run)
    head = "| method | learning rate | seeds | loss, mean [least-most] | over dense | MB a worker | times fewer |\n"
    return head + "|---|---:|---:|---:|---:|---:|---:|\n" + "".join(row(label, runs) for label in runs)


def row(label: str, runs: dict[str, list[Run]]) -> str:
    found = runs[label]
    dense = {run["training"]["seed"]: run for run in runs["unlike: dense" if label.startswith("unlike") else "dense"]}
    losses = [run["loss"] for run in found]
    over = mean(run["loss"] - dense[run["training"]["seed"]]["loss"] for run in found)
    megabytes = mean(run["megabytes"] for run in found)
    fewer = mean(run["megabytes"] for run in dense.values()) / megabytes
    spread = f"{mean(losses):.3f} [{min(losses):.3f}-{max(losses):.3f}]"
    return (
        f"| {label} | {found[0]['training']['learning_rate']:g} | {len(found)} | {spread} | {over:+.3f} "
        f"| {megabytes:,.2f} | {fewer:,.0f} |\n"
    )


if __name__ == "__main__":
    main()
