"""The fastest method by number of workers and link, from rehearsed work and a model of the network, for 2 to 1024 workers.

    python benchmarks/scale.py [--model mlp] [--most 1024] [--method SPEC ...]

Nothing is measured on a network: benchmarks/scale_check.py compares the model with real ranks. If a method's work depends on the rank,
every worker is rehearsed, so this takes half an hour on a core. Writes results/scale.json; with --method only these methods are rehearsed
again. python benchmarks/scale_page.py then draws docs/figures/scale.png and fills docs/scale.md.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from rows import RESULTS
from scale_page import sheet_of, show

from gradwire.lab import scale

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
RATES = ("10mbit", "100mbit", "1gbit", "10gbit", "100gbit")
METHODS = (
    *scale.METHODS[:-1],
    "ef(sharedrandk(density=0.01, unbiased=false))",
    "local(every=30)",
    "local(every=30, exchange='mean', outer='nesterov')",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--most", type=int, default=SIZES[-1])
    parser.add_argument("--method", action="append")
    chosen = parser.parse_args()
    sizes = tuple(size for size in SIZES if size <= chosen.most)
    began = time.perf_counter()
    for method in chosen.method or METHODS:
        plan = scale.ScalePlan(chosen.model, (method,), sizes, RATES)
        fresh = scale.run(plan, lambda method, size: report(began, method, size))
        keep(fresh)
    show(sheet_of())


def report(began: float, method: str, size: int) -> None:
    print(f"{time.perf_counter() - began:6.0f} s  {method} x {size}", flush=True)


def keep(fresh: scale.Forecast) -> None:
    """Merge rehearsed work into the results, in the order of METHODS; the seconds of a step are the first run's."""
    file = RESULTS / "scale.json"
    before = sheet_of() if file.exists() else None
    if before is None or before.plan.model != fresh.plan.model or before.plan.sizes != fresh.plan.sizes:
        before = replace(fresh, works=())
    works = [work for work in before.works if work.method not in fresh.plan.methods] + list(fresh.works)
    order = [method for method in METHODS if method in {work.method for work in works}]
    works = [work for method in order for work in works if work.method == method]
    plan = replace(before.plan, methods=tuple(order))
    file.write_text(replace(before, plan=plan, works=tuple(works)).to_json())


if __name__ == "__main__":
    main()
