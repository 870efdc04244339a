"""Collect measured numbers of steps to a loss: python benchmarks/loss_table.py

Reads results/race.json, race_sgd.json, adam_sparse.json and local_lab.json, and writes src/gradwire/advice/losses.json, which `gradwire
advise` reads. A row is one method in one run: the loss, the steps in which dense reached it, and the method's steps, or null if it did not
reach it within `limit` steps.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rows import RESULTS

TABLE = Path(__file__).parents[1] / "src" / "gradwire" / "advice" / "losses.json"
H = {"default, H = 10": "local(every=10)", "default, H = 4": "local(every=4)"}
"""Labels of local_lab.json whose runs are gradwire's defaults."""

SPARSE = {
    "EF(Top-k) 1 %": "ef(topk(density=0.01))",
    "EF(Top-k) 5 %": "ef(topk(density=0.05))",
    "EF(Top-k) 10 %": "ef(topk(density=0.1))",
}
"""Labels of adam_sparse.json whose runs only replace the averaging of gradients by a spec."""

INF = float("inf")

Points = Sequence[tuple[float, float]]


def main() -> None:
    rows = [*race(), *race_sgd(), *adam_sparse(), *local_lab()]
    TABLE.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(row)


def race() -> Iterator[dict[str, Any]]:
    """AdamW, two ranks: steps to dense's final loss."""
    runs = [run for run in read("race") if run["stage"] in ("train", "sweep")]
    dense = min((run for run in runs if run["way"] == "dense"), key=lambda run: run["points"][-1]["loss"])
    for run in (run for run in runs if run["stage"] == "train"):
        yield row(run["way"], "adamw", "a GPT of 10.8 M parameters on text", 2, points(run), points(dense), "race.json")


def race_sgd() -> Iterator[dict[str, Any]]:
    """SGD with Nesterov momentum, two ranks: steps to dense's final loss."""
    runs = read("race_sgd")
    dense = next(run for run in runs if run["name"] == "dense")
    for run in (run for run in runs if run["name"] != "dense"):
        task = "a GPT of 10.8 M parameters on text"
        yield row(run["spec"], "sgd", task, 2, points(run), points(dense), "race_sgd.json")


def adam_sparse() -> Iterator[dict[str, Any]]:
    """AdamW, four workers: the best loss after dense's number of steps; only for methods that ended worse than dense."""
    found = json.loads((RESULTS / "adam_sparse.json").read_text())
    ends: dict[str, float] = {}
    for run in found["runs"]:
        ends[run["label"]] = min(run["loss"], ends.get(run["label"], float("inf")))
    steps = float(found["steps"])
    for label, way in SPARSE.items():
        if ends[label] > ends["dense"]:
            own, plain = [(steps, ends[label])], [(0.0, float("inf")), (steps, ends["dense"])]
            yield row(way, "adamw", "a GPT on text", found["workers"], own, plain, "adam_sparse.json")


def local_lab() -> Iterator[dict[str, Any]]:
    """AdamW, four workers: steps to the final loss of local steps, for each seed."""
    runs = [run for run in read("local_lab") if not run["label"].startswith(("sweep", "unlike"))]
    for run in (run for run in runs if run["label"] in H):
        alike = ("seed", "steps", "workers", "batch", "model")
        dense = [
            other
            for other in runs
            if other["label"] == "dense" and all(other["training"][k] == run["training"][k] for k in alike)
        ]
        own = [(float(step), float(loss)) for step, loss in run["losses"]]
        plain = [(float(step), float(loss)) for step, loss in dense[0]["losses"]]
        task = f"a GPT of {run['parameters'] / 1e6:.1f} M parameters on text"
        yield row(H[run["label"]], "adamw", task, run["training"]["workers"], own, plain, "local_lab.json", own[-1][1])


def row(
    way: str,
    optimizer: str,
    task: str,
    workers: int,
    own: Points,
    dense: Points,
    source: str,
    loss: float | None = None,
) -> dict[str, Any]:
    target = min(loss for _, loss in dense) if loss is None else loss
    return {
        "way": way, "optimizer": optimizer, "task": task, "workers": workers, "loss": round(target, 4),
        "dense": reached(dense, target), "steps": reached(own, target), "limit": own[-1][0], "source": source,
    }  # fmt: skip


def reached(curve: Points, target: float) -> float | None:
    """The step at which a curve first reaches a loss, interpolated linearly; None if it never does."""
    for (before, high), (after, low) in itertools.pairwise(curve):
        if low <= target:
            return round(before + (after - before) * (high - target) / (high - low), 1) if low < high < INF else after
    return None


def points(run: dict[str, Any]) -> Points:
    return [(point["step"], point["loss"]) for point in run["points"]]


def read(name: str) -> list[dict[str, Any]]:
    return json.loads((RESULTS / f"{name}.json").read_text())["runs"]


if __name__ == "__main__":
    main()
