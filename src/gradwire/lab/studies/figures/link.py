"""The error of descents on real ranks over a slow link, by wall-clock time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gradwire import net
from gradwire.lab.convex.descent import Mark, Trace
from gradwire.lab.convex.on_ranks import Descent, TimedMark, descend_on_ranks
from gradwire.lab.studies.figures import Curve, Figure, curve

RATE, WORKERS, SECONDS = "10mbit", 4, 40.0
PROBLEM = {"d": 20_000, "condition": 100.0}

Report: TypeAlias = Callable[[float, str], None]
"""Called with the fraction of a run that is done, and a line of facts."""

Start: TypeAlias = Callable[[str], Report]
"""Called with the name of a run when it begins; returns its progress callback."""


def figure(seed: int, start: Start) -> Figure:
    """Run a quadratic on four ranks at 10 Mbit/s, 40 seconds a method; on loopback if links are not available.

    Step sizes are those of theory; methods labelled "plain step" take that of uncompressed gradient descent.
    """
    rate, place = (RATE, "links of 10 Mbit/s") if net.refusal() is None else (None, "loopback, for links are refused")
    plain = _descent("gd", "identity", seed)
    step = plain.make()[1].step
    descents = {
        "uncompressed": plain,
        "DIANA, natural": _descent("diana", "natural", seed),
        "DIANA, ternary by blocks": _descent("diana", "blockwise(ternary, size=64)", seed),
        "VR-GDCI, natural": _descent("vr_gdci", "natural", seed),
        "EF21, Top-K 5 %, plain step": _descent("ef21", "topk(density=0.05)", seed, step),
        "error feedback, Top-K 5 %, plain step": _descent("ef14", "topk(density=0.05)", seed, step),
    }
    panel = f"{WORKERS} ranks, {place}"
    curves = tuple(_curve(panel, label, descent, rate, start(label)) for label, descent in descents.items())
    title = f"A quadratic (d = {PROBLEM['d']:,}, condition number {PROBLEM['condition']:g}) on real ranks"
    caption = "Gradients and memories in float32. Bytes: what a worker sends, counted."
    return Figure("link", title, caption, curves)


def _curve(panel: str, label: str, descent: Descent, rate: str | None, report: Report) -> Curve:
    """Descend on ranks, and compare the run with its theorem."""

    def listen(timed: TimedMark) -> None:
        report(timed.seconds / SECONDS, _facts(timed.mark))

    problem, method = descent.make()
    timed = descend_on_ranks(descent, rate, listen)
    seconds, marks = tuple(each.seconds for each in timed), tuple(each.mark for each in timed)
    report(1.0, _facts(marks[-1]))
    return curve(panel, label, problem, Trace(method, marks, seconds[-1]), seconds)


def _descent(method: str, compressor: str, seed: int, step: float | None = None) -> Descent:
    return Descent(
        problem="quadratic",
        options=dict(PROBLEM),
        method=method,
        compressor=compressor,
        workers=WORKERS,
        rounds=1_000_000,
        every=5,
        seconds=SECONDS,
        seed=seed,
        step=step,
        dtype="float32",
    )


def _facts(mark: Mark) -> str:
    return f"round {mark.round:>7,}  error {mark.error:.1e}"
