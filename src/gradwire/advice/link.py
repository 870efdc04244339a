"""The link: seconds of a collective = alpha + traffic / beta, fitted to timed collectives of a few sizes.

`traffic` is the ledger's: bytes on the busiest rank's own link, by the algorithms of gloo. Of those seconds a core is
busy for `cpu`, measured and fitted alike; on loopback, where the kernel copies, that is most of them.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from gradwire.advice.timeline import Part
from gradwire.ask import ASKS, AllGather, AllReduce, AllToAll, Ask, Axis, Broadcast
from gradwire.transport.process import Process

HALF = "half"
"""An all-reduce of float16, which on a CPU is added otherwise than float32; not one of the asks."""

KINDS = tuple(kind.__name__ for kind in ASKS)

SIZES = tuple(4 * 4**i for i in (0, 5, 7, 8, 9, 10, 11))
"""Bytes of the tensors that are timed: 4, 4 KiB, 64 KiB, and on to 16 MiB by four."""

LONGEST, REPEATS, PATIENCE = 0.3, 5, 0.15
"""Seconds of a call after which no larger one is made; calls of a size, and seconds after which there are no more."""


@dataclass(frozen=True)
class Cost:
    """A kind of collective: seconds a call and seconds a byte of traffic; of these, seconds of a core."""

    alpha: float
    per_byte: float
    cpu_alpha: float = 0.0
    cpu_per_byte: float = 0.0

    @property
    def beta(self) -> float:
        """Bytes a second; inf where no size made a difference."""
        return 1 / self.per_byte if self.per_byte > 0 else float("inf")

    def part(self, traffic: float) -> Part:
        """One call."""
        seconds, cpu = self.alpha + traffic * self.per_byte, self.cpu_alpha + traffic * self.cpu_per_byte
        return Part(min(seconds, cpu), max(0.0, seconds - cpu))

    def at(self, beta: float) -> Cost:
        """The same over another bandwidth. A core is never busy for longer than a call takes, so it gives no limit."""
        return replace(self, per_byte=1 / beta)


@dataclass(frozen=True)
class Link:
    """What every kind of collective costs among `size` ranks; `share` of a core for either lane of the timeline.

    inside, between: what they cost among the ranks of an island, and among ranks of which each is of another island;
    None where there are no islands.
    """

    size: int
    share: float
    costs: Mapping[str, Cost]
    inside: Link | None = None
    between: Link | None = None

    def part(self, kind: str, traffic: float, axis: Axis | None = None) -> Part:
        """One call of a kind, among all ranks or along an axis; an empty one travels nowhere."""
        return self._along(axis).costs[kind].part(traffic) if traffic > 0 else Part(0.0, 0.0)

    def at(self, beta: float) -> Link:
        """The same ranks over another bandwidth, in bytes a second. Inside islands it stays what it is."""
        between = None if self.between is None else self.between.at(beta)
        return replace(self, costs={kind: cost.at(beta) for kind, cost in self.costs.items()}, between=between)

    def _along(self, axis: Axis | None) -> Link:
        """The link of groups along an axis; that of all ranks for groups that lie otherwise than islands do."""
        if axis is None or self.inside is None or self.between is None:
            return self
        island = self.inside.size
        if island % (axis.size * axis.stride) == 0:
            return self.inside
        return self.between if axis.stride % island == 0 else self


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares of relative errors: (traffic, seconds) -> seconds a call and seconds a byte, neither below 0."""
    weights = [1 / max(seconds, 1e-7) ** 2 for _, seconds in points]
    total = sum(weights)
    x, y = (sum(w * point[i] for w, point in zip(weights, points, strict=True)) / total for i in (0, 1))
    spread = sum(w * (a - x) ** 2 for w, (a, _) in zip(weights, points, strict=True))
    slope = sum(w * (a - x) * (b - y) for w, (a, b) in zip(weights, points, strict=True)) / spread if spread else 0.0
    if slope <= 0:
        return y, 0.0
    if (alpha := y - slope * x) >= 0:
        return alpha, slope
    squares = sum(w * a * a for w, (a, _) in zip(weights, points, strict=True))
    return 0.0, sum(w * a * b for w, (a, b) in zip(weights, points, strict=True)) / squares


def probe(process: Process, device: torch.device, kinds: Sequence[str] = KINDS) -> Link:
    """Time collectives of every kind and fit their costs. Every rank calls it; all return the same link.

    Takes about a second, and no more than three on a slow link.
    """
    costs = {kind: _cost(process, device, kind) for kind in kinds}
    return Link(process.size, share(process, device), costs)


def share(process: Process, device: torch.device) -> float:
    """The part of its speed at which each lane computes while both do: cores for a rank here over threads that want."""
    if device.type != "cpu":
        return 1.0
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text() if boot.exists() else os.uname().nodename
    mine = torch.frombuffer(bytearray(hashlib.blake2b(machine.encode(), digest_size=8).digest()), dtype=torch.uint8)
    gathered = process.ask(AllGather(mine))
    here = int((gathered == mine).all(-1).sum())
    threads = torch.get_num_threads()
    agreed = torch.tensor(min(1.0, _cores() / here / (threads + 1)))
    dist.all_reduce(agreed, group=process.group)
    return float(agreed) / process.size


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cost(process: Process, device: torch.device, kind: str) -> Cost:
    """Time one kind over growing sizes, until a call takes long."""
    timed: list[tuple[float, float]] = []
    cores: list[tuple[float, float]] = []
    for nbytes in SIZES:
        call, traffic = _call(process, device, kind, nbytes)
        if not timed:  # the first of a kind opens what the others use
            _once(device, call)
        seconds, cpu = _time(process, device, call)
        timed.append((traffic, seconds))
        cores.append((traffic, cpu))
        if seconds > LONGEST / 3:  # the next would take four times as long
            break
    return Cost(*fit(timed), *fit(cores))


def _call(process: Process, device: torch.device, kind: str, nbytes: int) -> tuple[Callable[[], None], float]:
    """A collective that brings so many bytes, rounded up to a row a rank, and its traffic."""
    size = process.size
    asks: dict[str, Callable[[Tensor], Ask]] = {
        "AllGather": AllGather,
        "Broadcast": lambda flat: Broadcast(flat, 0),
        "AllToAll": lambda flat: AllToAll(flat.new_zeros((size, -(-nbytes // size)))),
        "AllReduce": lambda flat: AllReduce(flat.view(torch.float32)),
        HALF: lambda flat: AllReduce(flat.view(torch.float16)),
    }
    ask = asks[kind](torch.zeros(nbytes, dtype=torch.uint8, device=device))
    return lambda: _discard(process.overwrite(ask)), ask.busiest(size)


def _discard(answer: Tensor) -> None:
    """What is timed is the call alone."""


def _time(process: Process, device: torch.device, call: Callable[[], None]) -> tuple[float, float]:
    """Median seconds of a call and of a core's part in it, the mean over ranks, who all make as many calls."""
    first = _mean(process, device, *_once(device, call))
    timed = [first]
    while len(timed) < REPEATS and len(timed) * first[0] < PATIENCE:
        timed.append(_once(device, call))
    seconds, cpu = zip(*timed, strict=True)
    return _mean(process, device, statistics.median(seconds), statistics.median(cpu))


def _once(device: torch.device, call: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and seconds of all cores that this process was busy with."""
    started, busy = time.perf_counter(), time.process_time()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, time.process_time() - busy


def _mean(process: Process, device: torch.device, seconds: float, cpu: float) -> tuple[float, float]:
    """Averages over the ranks, so that all decide alike."""
    figures = torch.tensor([seconds, cpu], dtype=torch.float64, device=device)
    dist.all_reduce(figures, group=process.group)
    return figures[0].item() / process.size, figures[1].item() / process.size
