"""The parts of a step's time: every sparsifier and the dense mean, on real ranks over a slow link."""

from __future__ import annotations

from types import MappingProxyType

from gradwire import net
from gradwire.lab.comparison.job import TrainingJob
from gradwire.lab.comparison.on_ranks import execute
from gradwire.lab.studies.chart import Chart, Line, Panel, Report

RATE, RANKS, SECONDS = "100mbit", 2, 12.0
METHODS = MappingProxyType(
    {
        "Top-k, union": "ef(uniontopk(density=0.01))",
        "CLT-k": "ef(cltk(density=0.01))",
        "MiCRO": "ef(micro(density=0.01))",
        "DEFT": "ef(deft(density=0.01))",
        "fp16": "fp16",
        "dense": "dense",
    }
)
PARTS = MappingProxyType(
    {"forward, backward, optimizer": "compute", "selection and packing": "selection", "wire": "wire"}
)


def breakdown(seed: int, report: Report) -> Chart:
    """Train the small GPT on two ranks at 100 Mbit/s, 12 seconds a method; on loopback if links are not available."""
    rate, place = (RATE, "links of 100 Mbit/s") if net.refusal() is None else (None, "loopback, for links are refused")
    facts: list[dict[str, float | str]] = []
    for label, exchange in METHODS.items():
        run = execute(label, TrainingJob(exchange, seconds=SECONDS, seed=seed, evaluate_every=SECONDS), RANKS, rate)
        steps = max(1, run.points[-1].step - run.points[0].step)
        parts = {name: 1e3 * getattr(run.split, part) for name, part in PARTS.items()}
        whole = {"step, ms": 1e3 * run.step_seconds, "kilobytes": run.ledger_bytes / steps / 1e3}
        facts.append({"method": label, "exchange": exchange} | parts | whole)
        report(f"{label}: {1e3 * run.step_seconds:.0f} ms a step")
    few = [index for index, fact in enumerate(facts) if fact["method"] not in ("fp16", "dense")]
    panels = {"all": list(range(len(facts))), "sparsifiers": few}
    return Chart(
        name="deft-breakdown",
        title=f"A step of the small GPT on {RANKS} ranks, {place}",
        caption="Medians over the steps of a run. Wire includes waiting for the slower rank.",
        panels=tuple(
            Panel(name, "", "ms a step", ticks=tuple(str(facts[i]["method"]) for i in chosen))
            for name, chosen in panels.items()
        ),
        lines=tuple(
            Line(name, part, tuple(map(float, range(len(chosen)))), tuple(float(facts[i][part]) for i in chosen))
            for name, chosen in panels.items()
            for part in PARTS
        ),
        facts=tuple(facts),
    )
