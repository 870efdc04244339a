"""Selection at scale: the speed-up of a worker's selection by the number of workers, on the shapes of real models.

Measurements are compared with three models: linear, DEFT's cost model, and the paper's bound for equal layers.
"""

from __future__ import annotations

from typing import Any

from gradwire.lab.models import shapes
from gradwire.lab.studies import costs, selection
from gradwire.lab.studies.chart import Chart, Line, Panel, Report

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PACKINGS = {
    ("cost", 0): "measured, cut and packed as in the paper",
    ("time", 2): "measured, cut=2, packed by time",
    ("time", 4): "measured, cut=4, packed by time",
}


def searching(seed: int, report: Report) -> Chart:
    """Time every rank's selection, one after the other, in CPU seconds of one thread; the slowest rank counts."""
    panels: list[Panel] = []
    lines: list[Line] = []
    facts: list[dict[str, Any]] = []
    for model, layout in shapes.MODELS.items():
        density = shapes.DENSITIES[model]
        title = f"{model}: {layout.d / 1e6:.1f} M values, density {density:.1%}"
        panels.append(Panel(title, "workers", "times as fast as Top-k of the whole", log_x=True, log_y=True))
        repeats = 5 if layout.d > 5e7 else 9
        for (packing, cut), label in PACKINGS.items():
            measured = selection.measure(layout, density, SIZES, repeats, seed, packing, cut)
            lines.append(_line(title, label, measured))
            facts += [_facts(model, measured, scale) for scale in measured.scales]
            report(f"{model}, {packing}")
        modelled = [costs.cost(layout, density, n) for n in SIZES]
        promised = {
            "linear": SIZES,
            "cost model": [cost.speedup for cost in modelled],
            "equal layers, n log k / (log k - log n)": [cost.trivial for cost in modelled],
        }
        lines += [Line(title, label, _floats(SIZES), _floats(curve)) for label, curve in promised.items()]
    return Chart(
        name="deft-selection",
        title="Selection by the slowest worker, against Top-k of the whole vector by the same kernel",
        caption="A random gradient whose tensors differ in scale. The plan (norms, budgets, packing) is not in it.",
        panels=tuple(panels),
        lines=tuple(lines),
        facts=tuple(facts),
    )


def _line(panel: str, label: str, measured: selection.SelectionTimes) -> Line:
    """The line of speed-ups by n, with a band from the slowest rank's quartiles."""
    whole = [scale.whole.median for scale in measured.scales]
    slowest = [scale.slowest for scale in measured.scales]
    speedups = [
        _floats(top / getattr(timing, name) for top, timing in zip(whole, slowest, strict=True))
        for name in ("median", "high", "low")
    ]
    return Line(panel, label, _floats(SIZES), *speedups)


def _facts(model: str, measured: selection.SelectionTimes, scale: selection.Scale) -> dict[str, Any]:
    """A row of facts; "share" is n times the slowest rank's time over Top-k's, 1 if selection scales linearly."""
    return {
        "model": model,
        "packed by": measured.pack_by,
        "cut": measured.cut,
        "workers": scale.n,
        "layers": scale.layers,
        "Top-k, ms": 1e3 * scale.whole.median,
        "slowest, ms": 1e3 * scale.slowest.median,
        "share": scale.ratio,
        "plan, ms": 1e3 * scale.plan,
        "norms, ms": 1e3 * scale.norms.median,
        "torch.topk, ms": 1e3 * measured.torch_topk.median,
    }


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
