"""Run a job on n ranks over a link, and listen to it."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from gradwire import net
from gradwire.lab.comparison.job import Job
from gradwire.lab.comparison.record import Point, Run, Split

Listener = Callable[[dict[str, Any]], None]


class Failed(RuntimeError):
    """A run ended before its time; `code` is 2 where its input was bad, else 1."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def execute(name: str, job: Job, ranks: int, rate: str | None, listen: Listener = lambda event: None) -> Run:
    """Train on `ranks` processes, on links of `rate` or over loopback, and return what came of it.

    Raises:
        Failed: a rank refused its input or died; the message is its own.
        gradwire.net.Refused: the kernel does not give links.
    """
    events: dict[str, list[dict[str, Any]]] = {}

    def note(event: dict[str, Any]) -> None:
        events.setdefault(event.pop("event"), []).append(event)
        listen({"parameters": 0} | event)

    follow(f"the run {name!r}", "gradwire.lab.comparison.trainer", job.to_json(), ranks, rate, note, last="end")
    end = events["end"][0]
    return Run(
        name=name,
        spec=job.exchange,
        points=tuple(Point(**point) for point in events["point"]),
        split=Split(**end.pop("split")),
        **end,
    )


def follow(
    name: str, module: str, argument: str, ranks: int, rate: str | None, listen: Listener, last: str | None = None
) -> None:
    """Run `python -m module argument` on every rank, and pass on every event that they print.

    Raises:
        Failed: a rank refused its input or died, and the message is its own; or nobody told of the event `last`.
        gradwire.net.Refused: the kernel does not give links.
    """
    command, told = [sys.executable, "-m", module, argument], set[str]()
    with (
        tempfile.TemporaryFile("w+") as errors,
        net.launch([command] * ranks, rate=rate, env={"OMP_NUM_THREADS": "1"}, stderr=errors) as cluster,
    ):
        for line in cluster.lines():
            event = json.loads(line)
            if event["event"] == "error":
                raise Failed(event["message"], 2)
            told.add(event["event"])
            listen(event)
        codes = cluster.wait()
        errors.seek(0)
        complaint = errors.read()
    if any(codes):
        raise Failed(f"{name} failed with codes {codes}: {complaint[-2000:]}", 1)
    if last is not None and last not in told:
        raise Failed(f"{name} has not come to its end", 1)


def versions() -> dict[str, str]:
    """What the figures depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
