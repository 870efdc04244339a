"""The overhead of attach(ddp, "auto") on loopback, where compression does not pay: its step divided by plain DDP's, in one run.

python benchmarks/loopback.py
"""

from __future__ import annotations

from rows import Row, row, show

from gradwire.lab import bench


def main() -> None:
    show([each for model in ("mlp", "gpt", "resnet18") for each in judge(model)])


def judge(model: str) -> list[Row]:
    """Make one row; the bar is at most 2 % slower."""
    plan = bench.BenchPlan(model=model, methods=("dense", "auto"), rates=(None,), steps=60, seconds=20)
    sheet = bench.run(plan)
    auto = next(each for each in sheet.measured if each.method.startswith("auto"))  # "auto (dense)"
    return [row(f"auto on loopback, {model}, in steps of dense", sheet.ratio(auto, "dense"), most=1.02)]


if __name__ == "__main__":
    main()
