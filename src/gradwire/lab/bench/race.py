"""The race of all methods of a cell, on one rank.

The same processes run all methods, in turns of a few steps each, so that slow moments of the machine affect all of
them. Rank 0's clock decides how many steps a turn has.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gradwire.lab import remote
from gradwire.lab.bench.plan import Cell
from gradwire.lab.bench.racer import Racer, size
from gradwire.lab.bench.results import Measured, Model
from gradwire.lab.bench.workloads import make
from gradwire.lab.remote import Report
from gradwire.lab.ways import AUTO_DENSE, is_torch

CHUNK_STEPS, CHUNK_SECONDS = 5, 2.0
FEWEST_STEPS, FEWEST_ROUNDS, PATIENCE_STEPS = 2, 5, 100
QUICK_SECONDS = 1.0
"""Steps shorter than this allow more untimed ones: in the warm-up, and one at the start of every turn."""


@dataclass(frozen=True)
class Progress:
    """The progress of a method in a cell: the fraction done, and the median seconds of a step so far."""

    link: str
    ranks: int
    method: str
    done: float
    seconds: float


@dataclass(frozen=True)
class Raced:
    """The result of a race."""

    model: Model
    measured: tuple[Measured, ...]


def race(cell: Cell, report: Report) -> Raced:
    """Measure all methods of a cell in turns. Every rank calls it and gets the same result.

    Raises:
        ValueError: an invalid factory, spec or loss, in one sentence.
    """
    workload = make(cell.model, dist.get_rank())
    workload.check()
    model = Model(cell.model, *size(workload.model))
    racers: list[Racer] = []
    for method in cell.methods:
        racers.append(Racer(method, workload, cell.bucket_mb))
        _warm_up(racers[-1])
        report(Progress(cell.link, cell.ranks, method, 0.0, racers[-1].last))
    while sum(_turn(racer, cell, report) for racer in racers):
        pass  # each iteration gives every method a turn
    for racer in racers:
        racer.check_finite()
    compute = statistics.median(_slowest(racers[0].timed.steps))
    measured = tuple(_measured(racer, cell, compute) for racer in racers)
    for racer in racers:
        racer.comm.close()
    return Raced(model, measured)


def _warm_up(racer: Racer) -> None:
    """Make untimed steps, fewer if they are slow; with auto, only steps after its choice count."""
    fewest, most = racer.warm_steps
    done = 0
    for number in range(PATIENCE_STEPS):
        racer.warm()
        if number == 0:
            racer.check()
        done += racer.comm.choice() is not None
        if remote.agreed(done >= most or (done >= fewest and racer.last > QUICK_SECONDS))[0]:
            break


def _turn(racer: Racer, cell: Cell, report: Report) -> bool:
    """Time a few steps of one method; return False if it is done."""
    done, last, period = len(racer.timed.steps), racer.last, racer.comm.period
    wanted = cell.steps if period == 1 else max(math.ceil(cell.steps / period), FEWEST_ROUNDS)
    over = done >= wanted or (done >= FEWEST_STEPS and racer.spent >= cell.seconds)
    rounds = min(max(1, CHUNK_STEPS // period), wanted - done, max(1, int(CHUNK_SECONDS / (period * last))))
    rounds, quick = map(int, remote.agreed(0 if over else rounds, last < QUICK_SECONDS))
    if rounds:
        if quick:  # after another method's turn, the first step finds caches cold
            racer.warm()
        racer.time(rounds)
        fraction = max(len(racer.timed.steps) / wanted, min(1.0, racer.spent / cell.seconds))
        report(Progress(cell.link, cell.ranks, racer.method, fraction, statistics.median(racer.timed.steps)))
    return rounds > 0


def _measured(racer: Racer, cell: Cell, compute: float) -> Measured:
    """Compute a method's figures from the timings of all ranks."""
    timed, period = racer.timed, racer.comm.period
    steps = torch.tensor(_slowest(timed.steps), dtype=torch.float64)
    wire, wait = _network(timed.collectives)
    own = is_torch(racer.method) or racer.label == AUTO_DENSE
    return Measured(
        model=cell.model,
        link=cell.link,
        ranks=dist.get_world_size(),
        method=racer.label,
        steps=len(steps) * period,
        step=_quantile(steps, 0.5),
        step_low=_quantile(steps, 0.1),
        step_high=_quantile(steps, 0.9),
        compute=compute,
        selection=_quantile(_gathered(timed.selecting).mean(0), 0.5),
        wire=max(0.0, _quantile(steps, 0.5) - compute) if own else _quantile(wire, 0.5),
        wait=_quantile(wait, 0.5),
        sent_bytes=float(_gathered([timed.sent]).mean()) / (len(steps) * period),
        tx_bytes=float(_gathered([float(timed.tx)]).mean()) / (len(steps) * period),
    )


def _network(mine: list[list[float]]) -> tuple[Tensor, Tensor]:
    """f64[steps] twice: seconds in which all ranks are in a collective, and a rank's mean further seconds in one."""
    each, counts = _gathered([seconds for step in mine for seconds in step]), torch.tensor([len(step) for step in mine])
    shortest, step = each.min(0).values, torch.arange(len(mine)).repeat_interleave(counts)
    nothing = torch.zeros(len(mine), dtype=torch.float64)
    return nothing.index_add(0, step, shortest), nothing.index_add(0, step, each.mean(0) - shortest)


def _quantile(values: Tensor, q: float) -> float:
    return float(torch.quantile(values, q))


def _slowest(seconds: list[float]) -> list[float]:
    """For every step, its seconds on the slowest rank."""
    return [float(second) for second in _gathered(seconds).max(0).values]


def _gathered(mine: list[float]) -> Tensor:
    """f64[ranks, len(mine)]: gather the numbers of all ranks."""
    tensor = torch.tensor(mine, dtype=torch.float64)
    all_ranks = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    if mine:
        dist.all_gather(all_ranks, tensor)
    return torch.stack(all_ranks)
