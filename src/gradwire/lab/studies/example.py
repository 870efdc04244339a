"""DEFT's plan for one small model: cuts, budgets by norm, bins. Nothing is trained; the numbers are exact."""

from __future__ import annotations

from gradwire.exchange import deft
from gradwire.lab.studies.chart import Chart, Line, Panel, Report

TENSORS = {"scale": 6, "conv": 1000, "bias": 10, "table": 4000, "heat": 1, "head": 500, "shift": 3}
NORMS = (3.0, 2.0, 5.0, 1.5, 1.25, 1.0, 0.75, 4.0, 0.5, 0.1)
WORKERS, K = 4, 55


def example(seed: int, report: Report) -> Chart:
    """Plan seven tensors for four workers with k = 55. Nothing is random, so the seed is not used."""
    spans = deft.partition(list(TENSORS.values()), WORKERS)
    sizes = [end - start for start, end in spans]
    names = _names(spans)
    ks = deft.assign_k(sizes, NORMS, K)
    plan = deft.pack(sizes, ks, WORKERS)
    home = {x: f"worker {bin}" for bin, layers in enumerate(plan.bins) for x in layers}
    owner = [home.get(x, "sent whole") for x in range(len(sizes))]
    owners = [*(f"worker {bin}" for bin in range(WORKERS)), "sent whole"]
    ticks, workers = tuple(names), tuple(owners[:-1])
    cut, norm, budget, load = "1. cut", "2. norms", "3. budgets", "4. bins"
    lines = [
        Line(panel, who, *_bars([value if owner[x] == who else 0.0 for x, value in enumerate(values)]))
        for panel, values in ((cut, sizes), (norm, NORMS), (budget, ks))
        for who in owners
    ]
    lines += [
        Line(load, who, *_bars([plan.loads[bin] if who == f"worker {bin}" else 0.0 for bin in range(WORKERS)]))
        for who in workers
    ]
    report(f"k_x = {ks}")
    return Chart(
        name="deft-example",
        title=f"DEFT's plan at step 0: {len(TENSORS)} tensors, {sum(sizes):,} values, {WORKERS} workers, k = {K}",
        caption="Colours tell who searches a layer. At the next step every worker takes the next bin.",
        panels=(
            Panel(cut, "layer", "elements", log_y=True, ticks=ticks),
            Panel(norm, "layer", "norm of the delegate's vector", ticks=ticks),
            Panel(budget, "layer", "k_x", ticks=ticks),
            Panel(load, "", "elements x log2 k_x", ticks=workers),
        ),
        lines=tuple(lines),
        facts=tuple(
            {"layer": name, "elements": size, "norm": norm, "k": k, "searched by": who}
            for name, size, norm, k, who in zip(names, sizes, NORMS, ks, owner, strict=True)
        ),
    )


def _names(spans: list[tuple[int, int]]) -> list[str]:
    """The name of each layer: its tensor's, followed by a number if the tensor is cut into pieces."""
    edges: dict[str, tuple[int, int]] = {}
    at = 0
    for name, size in TENSORS.items():
        edges[name] = (at, at + size)
        at += size
    names: list[str] = []
    for name, (start, end) in edges.items():
        pieces = [span for span in spans if start <= span[0] < end]
        names += [name] if len(pieces) == 1 else [f"{name} {i}" for i in range(len(pieces))]
    return names


def _bars(heights: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(map(float, range(len(heights)))), tuple(map(float, heights))
