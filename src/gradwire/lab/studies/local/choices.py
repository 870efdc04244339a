"""Studies of the choices in local steps: outer step and decay, number of workers, unlike data, delay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gradwire.engine.anchored import CatchUp
from gradwire.lab.studies.chart import Chart, Line, Panel, Report
from gradwire.lab.studies.local import arms
from gradwire.lab.training import Training

RATES, DECAYS, MEANS = (0.5, 1.0, 2.0, 4.0), (0.8, 0.9, 0.95, 1.0), ("all", "senders")
SIZES, DELAYS, FRAGMENTS = (2, 4, 8, 16), (2, 5), (2, 5)
CATCH_UPS: tuple[CatchUp, ...] = ("add", "mix", "drop")
DENSE, LOSS = "dense, each step", "held-out nats a byte at the end"


def _outer(mean: str, decay: float, lr: float) -> str:
    return f"over {mean}, decay {decay:g}, rate {lr:g}"


OUTER: Mapping[str, Training] = {DENSE: arms.BASE} | {
    _outer(mean, decay, lr): arms.default(outer=f"sgd(lr={lr}, mean='{mean}')", exchange=arms.sparse(decay))
    for mean in MEANS
    for decay in DECAYS
    for lr in RATES
    if decay == 0.95 or lr == 1.0
}
BY_WORKERS: Mapping[str, Training] = {
    DENSE: arms.BASE,
    "default, H = 10": arms.default(),
    "averaged, H = 10": arms.plain(),
    "DiLoCo's form, H = 10": arms.plain(outer=arms.NESTEROV),
}
WORKERS = {f"{name}, n = {n}": replace(run, workers=n) for name, run in BY_WORKERS.items() for n in SIZES}
UNLIKE: Mapping[str, Training] = {
    label: replace(run, unlike=True)
    for label, run in {
        **BY_WORKERS,
        "without decay, H = 10": arms.default(exchange=arms.sparse(1.0)),
        "default, H = 4": arms.default(4),
    }.items()
}
DELAY: Mapping[str, Training] = (
    {DENSE: arms.BASE, "no delay": arms.default()}
    | {f"{how}, {late} late": arms.default(delay=late, catch_up=how) for how in CATCH_UPS for late in DELAYS}
    | {f"{count} fragments": arms.default(fragments=count) for count in FRAGMENTS}
)


def outer(seed: int, report: Report) -> Chart:
    """Ten local steps with several outer rates and decays, and with means over all workers and over senders."""
    found = arms.play(OUTER, seed, report)
    rates, decays = "final loss by outer rate, decay 0.95", "final loss by decay, outer rate 1"
    lines: list[Line] = []
    for mean in MEANS:
        lines.append(arms.by(rates, f"mean over {mean}", [(lr, found[_outer(mean, 0.95, lr)]) for lr in RATES]))
        points = [(decay, found[_outer(mean, decay, 1.0)]) for decay in DECAYS]
        lines.append(arms.by(decays, f"mean over {mean}", points))
    panels = (Panel(rates, "outer rate", LOSS, log_x=True), Panel(decays, "decay of the residual", LOSS))
    return _chart("local-outer", "Outer steps: the default at ten local steps", panels, lines, found)


def workers(seed: int, report: Report) -> Chart:
    """Dense steps, the default, plain averages and DiLoCo's form with 2 to 16 workers and the same batch per worker."""
    found = arms.play(WORKERS, seed, report, seeds=1)
    panel = Panel("final loss by workers", "workers", LOSS, log_x=True)
    lines = [arms.by(panel.title, name, [(n, found[f"{name}, n = {n}"]) for n in SIZES]) for name in BY_WORKERS]
    return _chart("local-workers", "Local steps by the number of workers", (panel,), lines, found)


def unlike(seed: int, report: Report) -> Chart:
    """Four workers that read different kinds of text."""
    found = arms.play(UNLIKE, seed, report)
    panel = Panel("four kinds of text, over steps", "step", "held-out nats a byte, all kinds")
    lines = [arms.over_steps(panel.title, arm) for arm in found.values()]
    title = "Unlike data: Python, English, C++ and tables of characters, one a worker"
    return _chart("local-unlike-data", title, (panel,), lines, found)


def delay(seed: int, report: Report) -> Chart:
    """The default with a mean that arrives late, and with a model exchanged in fragments."""
    found = arms.play(DELAY, seed, report)
    here, delays, parts = found["no delay"], "final loss by delay", "final loss by fragments"
    lines = [
        arms.by(delays, how, [(0, here), *((late, found[f"{how}, {late} late"]) for late in DELAYS)])
        for how in CATCH_UPS
    ]
    counted = [(1, here), *((count, found[f"{count} fragments"]) for count in FRAGMENTS)]
    lines.append(arms.by(parts, "fragments", counted))
    panels = (Panel(delays, "steps until the mean arrives", LOSS), Panel(parts, "fragments of the model", LOSS))
    return _chart("local-delay", "Delay and fragments: the default at ten local steps", panels, lines, found)


def _chart(
    name: str, title: str, panels: Sequence[Panel], lines: Sequence[Line], found: Mapping[str, arms.Arm]
) -> Chart:
    """Make a chart whose facts compare each arm with dense steps of as many workers."""
    dense = {arm.size: arm for label, arm in found.items() if label.startswith(DENSE)}
    first = next(iter(dense.values()))
    run, seeds = first.runs[0], len(first.runs)
    return Chart(
        name=name,
        title=f"{title}; GPT of {run.parameters:,} parameters under AdamW, {run.training.steps} steps",
        caption=f"Mean of {seeds} seeds, bands from least to most." if seeds > 1 else "One seed.",
        panels=tuple(panels),
        lines=tuple(lines),
        facts=tuple(arms.facts(arm, dense[arm.size]) for arm in found.values()),
    )
