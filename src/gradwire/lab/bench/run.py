"""Measure a plan, cell by cell, on processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from gradwire.lab.bench.plan import Plan
from gradwire.lab.bench.results import Measured, Model, Sheet
from gradwire.lab.comparison import execute as compare


def run(plan: Plan, listen: compare.Listener = lambda event: None, command: str = "", note: str = "") -> Sheet:
    """Measure every cell on processes of this machine; `listen` hears the events with `link` and `ranks` in them.

    Raises:
        gradwire.lab.comparison.execute.Failed: a rank refused its input (code 2) or died (1); the message is its own.
        gradwire.net.Refused: the kernel does not give links.
    """
    models: dict[str, Model] = {}
    measured: list[Measured] = []
    for cell in plan.cells():
        place = {"link": cell.link, "ranks": cell.ranks}
        ends: list[dict[str, Any]] = []

        def note_event(event: dict[str, Any], place: dict[str, Any] = place, ends: list[dict[str, Any]] = ends) -> None:
            if event["event"] == "end":
                ends.append(event)
            else:
                listen(event | place)

        name = f"the benchmark of {cell.model} on {cell.link}"
        compare.follow(name, "gradwire.lab.bench.rank", cell.to_json(), cell.ranks, cell.rate, note_event, last="end")
        models[cell.model] = Model(**ends[0]["model"])
        measured += [Measured(**one) for one in ends[0]["measured"]]
    return sheet_of(plan, models.values(), measured, command, note)


def sheet_of(plan: Plan, models: Iterable[Model], measured: list[Measured], command: str, note: str) -> Sheet:
    """What was measured, with what it depends on."""
    versions = {"gradwire": version("gradwire"), **compare.versions(), "cores": str(os.cpu_count())}
    return Sheet(tuple(models), tuple(measured), plan.bucket_mb, command, versions, note)
