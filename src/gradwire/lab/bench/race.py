"""The race of all methods of a cell, on one rank.

They race in one start of processes, in rounds of a few steps each, so that a slow moment of the machine hits all of
them. Rank 0's clock decides how many steps a round has.
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
from gradwire.lab.remote import Tell
from gradwire.lab.ways import AUTO_DENSE, is_torch

CHUNK_STEPS, CHUNK_SECONDS = 5, 2.0
FEWEST_STEPS, FEWEST_ROUNDS, PATIENCE_STEPS = 2, 5, 100
QUICK_SECONDS = 1.0
"""Steps shorter than this are worth repeating before one is timed."""


@dataclass(frozen=True)
class Progress:
    """How far a method of a cell is: the share done, and the seconds of its step so far."""

    link: str
    ranks: int
    method: str
    done: float
    seconds: float


@dataclass(frozen=True)
class Raced:
    """What a race has found."""

    model: Model
    measured: tuple[Measured, ...]


def race(cell: Cell, tell: Tell) -> Raced:
    """Race all methods of a cell against each other; the same result on every rank. Every rank calls it.

    Raises:
        ValueError: a bad factory, spec or loss, in one sentence.
    """
    workload = make(cell.model, dist.get_rank())
    workload.check()
    model = Model(cell.model, *size(workload.model))
    racers: list[Racer] = []
    for method in cell.methods:
        racers.append(Racer(method, workload, cell.bucket_mb))
        _warm_up(racers[-1])
        tell(Progress(cell.link, cell.ranks, method, 0.0, racers[-1].last))
    while sum(_turn(racer, cell, tell) for racer in racers):
        pass  # another round
    for racer in racers:
        racer.check_finite()
    compute = statistics.median(_slowest(racers[0].timed.steps))
    measured = tuple(_measured(racer, cell, compute) for racer in racers)
    for racer in racers:
        racer.comm.close()
    return Raced(model, measured)


def _warm_up(racer: Racer) -> None:
    """Untimed steps, fewer where they are slow; auto's are those after it has chosen."""
    fewest, most = racer.warm_steps
    done = 0
    for number in range(PATIENCE_STEPS):
        racer.warm()
        if number == 0:
            racer.check()
        done += racer.comm.choice() is not None
        if remote.agreed(done >= most or (done >= fewest and racer.last > QUICK_SECONDS))[0]:
            break


def _turn(racer: Racer, cell: Cell, tell: Tell) -> bool:
    """A few steps of one method; whether it has had one."""
    done, last, period = len(racer.timed.steps), racer.last, racer.comm.period
    wanted = cell.steps if period == 1 else max(math.ceil(cell.steps / period), FEWEST_ROUNDS)
    over = done >= wanted or (done >= FEWEST_STEPS and racer.spent >= cell.seconds)
    rounds = min(max(1, CHUNK_STEPS // period), wanted - done, max(1, int(CHUNK_SECONDS / (period * last))))
    rounds, quick = map(int, remote.agreed(0 if over else rounds, last < QUICK_SECONDS))
    if rounds:
        if quick:  # the first step after another method finds its memory in no cache
            racer.warm()
        racer.time(rounds)
        share = max(len(racer.timed.steps) / wanted, min(1.0, racer.spent / cell.seconds))
        tell(Progress(cell.link, cell.ranks, racer.method, share, statistics.median(racer.timed.steps)))
    return rounds > 0


def _measured(racer: Racer, cell: Cell, compute: float) -> Measured:
    """A method's figures from the timings of all ranks."""
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
    """f64[steps] twice: seconds in which all ranks are in a collective, and a rank's mean seconds of waiting beyond."""
    each, counts = _gathered([seconds for step in mine for seconds in step]), torch.tensor([len(step) for step in mine])
    shortest, step = each.min(0).values, torch.arange(len(mine)).repeat_interleave(counts)
    nothing = torch.zeros(len(mine), dtype=torch.float64)
    return nothing.index_add(0, step, shortest), nothing.index_add(0, step, each.mean(0) - shortest)


def _quantile(values: Tensor, share: float) -> float:
    return float(torch.quantile(values, share))


def _slowest(seconds: list[float]) -> list[float]:
    """Every step's seconds on the rank that took longest."""
    return [float(second) for second in _gathered(seconds).max(0).values]


def _gathered(mine: list[float]) -> Tensor:
    """f64[ranks, len(mine)]: the numbers of all ranks."""
    tensor = torch.tensor(mine, dtype=torch.float64)
    all_ranks = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    if mine:
        dist.all_gather(all_ranks, tensor)
    return torch.stack(all_ranks)
