"""How far the mean shift drifts from the mean of the shifts in float32, over 100,000 steps.

    python benchmarks/shift_drift.py        # writes benchmarks/results/shift_drift.json

Each worker adds its own messages to its shift, and mean messages to the mean shift, so the two round differently. The drift
is max |mean of h_i - mean h| / max |mean h|. It is compared with the spacing of float32, and with the compression error of a
step, |mean - mean of x| / |mean of x|.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

import gradwire as gw
from gradwire.lab import records

RESULTS = Path(__file__).parent / "results" / "shift_drift.json"
STEPS, D, WORKERS = 100_000, 16, 4
MARKS = (10, 100, 1_000, 6_000, 10_000, 30_000, 100_000)
SPECS = ("ef21(topk(density=0.25))", "diana(natural)")


def drift(spec: str, steps: int = STEPS) -> dict[str, list[float]]:
    """The relative drift and the relative compression error of a step, at every mark."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layout = gw.Layout(["x"], [(D,)])
    simulator = gw.Simulator(spec, layout, WORKERS, batched=True)
    centre = 3.0 * torch.randn(WORKERS, D)
    found: dict[str, list[float]] = {"steps": [], "drift": [], "error": []}
    for step in range(1, steps + 1):
        x = centre + 0.1 * torch.randn(WORKERS, D)
        mean = simulator.step(x).mean
        if step in MARKS:
            h, own = shifts(simulator)
            exact = x.double().mean(0)
            found["steps"].append(step)
            found["drift"].append(float((own.double().mean(0) - h).abs().max() / h.abs().max()))
            found["error"].append(float((mean.double() - exact).norm() / exact.norm()))
    return found


def shifts(simulator: gw.Simulator) -> tuple[Tensor, Tensor]:
    """The mean shift f64[d] that all workers keep, and every worker's own f[n, d]."""
    state = simulator.state[0]
    return state["mean_h"].double(), state["h"]


if __name__ == "__main__":
    record = {"versions": records.platform_versions(), "d": D, "workers": WORKERS}
    record["runs"] = {spec: drift(spec) for spec in SPECS}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["runs"], indent=1))
