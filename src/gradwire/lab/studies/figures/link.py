"""Descent on real ranks over a slow link, and the figure that the papers do not have: error against wall-clock time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from gradwire import net
from gradwire.lab.comparison.execute import follow
from gradwire.lab.convex.descent import Mark, Trace
from gradwire.lab.convex.on_ranks import Errand
from gradwire.lab.studies.figures import Curve, Figure, curve

RATE, WORKERS, SECONDS = "10mbit", 4, 40.0
PROBLEM = {"d": 20_000, "condition": 100.0}

Tell: TypeAlias = Callable[[float, str], None]
"""Is told the share of a run that is done, and a line of facts."""

Start: TypeAlias = Callable[[str], Tell]
"""Is told the name of a run that begins."""


def figure(seed: int, start: Start) -> Figure:
    """Run a quadratic on four ranks at 10 Mbit/s, 40 seconds a method; on loopback where there are no links.

    Steps are those of theory, except where the label says that a method takes the step of plain gradient descent.
    """
    rate, place = (RATE, "links of 10 Mbit/s") if net.refusal() is None else (None, "loopback, for links are refused")
    plain = _errand("gd", "identity", seed)
    step = plain.make()[1].step
    errands = {
        "uncompressed": plain,
        "DIANA, natural": _errand("diana", "natural", seed),
        "DIANA, ternary by blocks": _errand("diana", "blockwise(ternary, size=64)", seed),
        "VR-GDCI, natural": _errand("vr_gdci", "natural", seed),
        "EF21, Top-K 5 %, plain step": _errand("ef21", "topk(density=0.05)", seed, step),
        "error feedback, Top-K 5 %, plain step": _errand("ef14", "topk(density=0.05)", seed, step),
    }
    curves: list[Curve] = []
    for label, errand in errands.items():
        tell = start(label)
        problem, method = errand.make()
        timed = execute(errand, rate, lambda seconds, mark, tell=tell: tell(seconds / SECONDS, _facts(mark)))
        seconds, marks = zip(*timed, strict=True)
        trace = Trace(method, tuple(marks), seconds[-1])
        curves.append(curve(f"{WORKERS} ranks, {place}", label, problem, trace, tuple(seconds)))
        tell(1.0, _facts(marks[-1]))
    title = f"A quadratic (d = {PROBLEM['d']:,}, condition number {PROBLEM['condition']:g}) on real ranks"
    caption = "Gradients and memories in float32. Bytes: what a worker sends, counted."
    return Figure("link", title, caption, tuple(curves))


def execute(
    errand: Errand, rate: str | None, listen: Callable[[float, Mark], None] = lambda seconds, mark: None
) -> list[tuple[float, Mark]]:
    """Run an errand on as many processes as it has workers: seconds and marks.

    Raises:
        Failed: a worker refused its input or died; the message is its own.
        gradwire.net.Refused: the kernel does not give links.
    """
    found: list[tuple[float, Mark]] = []

    def note(event: dict[str, Any]) -> None:
        del event["event"]
        found.append((event.pop("seconds"), Mark(**event)))
        listen(*found[-1])

    follow(
        f"the descent by {errand.method}", "gradwire.lab.convex.on_ranks", errand.to_json(), errand.workers, rate, note
    )
    return found


def _errand(method: str, compressor: str, seed: int, step: float | None = None) -> Errand:
    return Errand(
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
