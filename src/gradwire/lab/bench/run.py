"""Measure a plan: cell by cell on processes of this machine, or as one rank of a torchrun job."""

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
"""Timeout of one collective: a dense one on a slow link takes minutes."""

HERE = "the network as it is"
"""The link's name under torchrun."""


def run(plan: BenchPlan, listen: Callable[[Progress], None] = ignore, command: str = "", note: str = "") -> Sheet:
    """Measure every cell on processes of this machine.

    Raises:
        gradwire.lab.remote.Failed: a rank refused its input (code 2) or died (code 1); the message comes from the rank.
        gradwire.net.Refused: links of a chosen rate are not available.
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
            refused=(ValueError,),  # other errors come from the user's code and need their traceback
        )
        for cell in plan.cells()
    ]
    return _sheet(plan, raced, command, note)


def run_here(plan: BenchPlan, listen: Callable[[Progress], None] = ignore, command: str = "", note: str = "") -> Sheet:
    """Measure on the existing default process group. Every rank calls it and gets the same sheet.

    Raises:
        ValueError: an invalid factory, spec or loss, in one sentence.
    """
    return _sheet(plan, [race(plan.cell(dist.get_world_size(), None, HERE), listen)], command, note)


def live_here(work: Callable[[bool], None], complain: Callable[[str], None]) -> NoReturn:
    """Join the ranks that torchrun started, call `work(rank == 0)`, and end the process."""
    remote.here(work, complain, TIMEOUT_SECONDS)


def _sheet(plan: BenchPlan, raced: Sequence[Raced], command: str, note: str) -> Sheet:
    """Collect measurements and versions in a sheet."""
    models = {each.model.name: each.model for each in raced}
    measured = tuple(one for each in raced for one in each.measured)
    versions = {**records.versions(), "cores": str(os.cpu_count())}
    return Sheet(tuple(models.values()), measured, plan.bucket_mb, command, versions, note)
