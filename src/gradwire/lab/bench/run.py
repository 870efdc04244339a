"""Measure a plan: cell by cell on processes of this machine, or as one rank of those that torchrun has started."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch.distributed as dist

from gradwire.lab import records, remote
from gradwire.lab.bench.plan import BenchPlan
from gradwire.lab.bench.race import Progress, Raced, race
from gradwire.lab.bench.results import Sheet
from gradwire.lab.remote import ignore

TIMEOUT_SECONDS = 1800
"""Of one collective: a dense one on a slow link takes minutes."""

HERE = "the network as it is"
"""The link's name under torchrun."""


def run(plan: BenchPlan, listen: Callable[[Progress], None] = ignore, command: str = "", note: str = "") -> Sheet:
    """Measure every cell on processes of this machine.

    Raises:
        gradwire.lab.remote.Failed: a rank refused its input (code 2) or died (1); the message is its own.
        gradwire.net.Refused: the kernel does not give links.
    """
    raced = [
        remote.run(
            race,
            cell,
            cell.ranks,
            name=f"the benchmark of {cell.model} on {cell.link}",
            rate=cell.rate,
            listen=listen,
            timeout=TIMEOUT_SECONDS,
            refused=(ValueError,),  # the other errors are of the user's own code, and need a traceback
        )
        for cell in plan.cells()
    ]
    return _sheet(plan, raced, command, note)


def run_here(plan: BenchPlan, listen: Callable[[Progress], None] = ignore, command: str = "", note: str = "") -> Sheet:
    """Measure on the ranks of the default group, which exists; every rank calls it, and gets the same sheet.

    Raises:
        ValueError: a bad factory, spec or loss, in one sentence.
    """
    return _sheet(plan, [race(plan.cell(dist.get_world_size(), None, HERE), listen)], command, note)


def live_here(work: Callable[[bool], None], complain: Callable[[str], None]) -> NoReturn:
    """Join the ranks that torchrun has started, work, and end the process; `work` takes whether this is rank 0."""
    remote.here(work, complain, TIMEOUT_SECONDS)


def _sheet(plan: BenchPlan, raced: Sequence[Raced], command: str, note: str) -> Sheet:
    """What was measured, with what it depends on."""
    models = {each.model.name: each.model for each in raced}
    measured = tuple(one for each in raced for one in each.measured)
    versions = {**records.versions(), "cores": str(os.cpu_count())}
    return Sheet(tuple(models.values()), measured, plan.bucket_mb, command, versions, note)
