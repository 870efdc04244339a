"""Measure on the network as it is, as one rank of those that torchrun, or whoever else, has started."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

import torch.distributed as dist

from gradwire.lab.bench.plan import Plan
from gradwire.lab.bench.race import measure
from gradwire.lab.bench.rank import TIMEOUT_SECONDS
from gradwire.lab.bench.results import Sheet
from gradwire.lab.bench.run import sheet_of
from gradwire.lab.comparison.execute import Listener
from gradwire.lab.remote import live

HERE = "the network as it is"
MEETING = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What the environment must hold so that ranks can find each other."""


def live_here(work: Callable[[bool], None], complain: Callable[[str], None]) -> NoReturn:
    """Join the others over gloo, work, and end the process; `work` is told whether this is the first rank.

    Bad input (ValueError) ends with code 2 after one complaint. Threads are as many as OMP_NUM_THREADS says.
    """
    if lacking := [name for name in MEETING if name not in os.environ]:
        raise ValueError(f"ranks of a network find each other by {', '.join(lacking)}: start them by torchrun")
    live(lambda: work(dist.get_rank() == 0), TIMEOUT_SECONDS, (ValueError,), complain, threads=None)


def run_here(plan: Plan, listen: Listener = lambda event: None, command: str = "", note: str = "") -> Sheet:
    """Measure on the ranks of the default group, which exists; every rank calls it, and gets the same sheet.

    Raises:
        ValueError: a bad factory, spec or loss, in one sentence.
    """
    cell = plan.cell(dist.get_world_size(), None, HERE)
    place = {"link": cell.link, "ranks": cell.ranks}
    model, measured = measure(cell, lambda event, **facts: listen({"event": event, **facts, **place}))
    return sheet_of(plan, [model], measured, command, note)
