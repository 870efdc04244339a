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
from gradwire.lab.job import Job
from gradwire.lab.results import Point, Run, Split

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
    command = [sys.executable, "-m", "gradwire.lab.rank", job.to_json()]
    events: dict[str, list[dict[str, Any]]] = {}
    with (
        tempfile.TemporaryFile("w+") as errors,
        net.launch([command] * ranks, rate=rate, env={"OMP_NUM_THREADS": "1"}, stderr=errors) as cluster,
    ):
        for line in cluster.lines():
            event = json.loads(line)
            events.setdefault(event.pop("event"), []).append(event)
            listen({"parameters": 0} | event)
        codes = cluster.wait()
        errors.seek(0)
        complaint = errors.read()
    if "error" in events:
        raise Failed(events["error"][0]["message"], 2)
    if any(codes) or "end" not in events:
        raise Failed(f"the run {name!r} failed with codes {codes}: {complaint[-2000:]}", 1)
    end = events["end"][0]
    return Run(
        name=name,
        spec=job.exchange,
        points=tuple(Point(**point) for point in events["point"]),
        split=Split(**end.pop("split")),
        **end,
    )


def versions() -> dict[str, str]:
    """What the figures depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
