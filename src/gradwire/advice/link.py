"""The cost of collectives: seconds = alpha + traffic / beta, fitted to timed collectives of a few sizes.

`traffic` is counted as in the ledger: bytes on the busiest rank's link, with gloo's algorithms. `cpu` is the part of
the seconds in which a core is busy, measured and fitted in the same way; on loopback, where the kernel copies, it is
most of them.
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
"""A further kind: an all-reduce of float16, timed by itself because a CPU adds float16 and float32 differently."""

KINDS = tuple(kind.__name__ for kind in ASKS)
"""The kinds of collectives that exchanges can ask for."""

SIZES = tuple(4 * 4**i for i in (0, 5, 7, 8, 9, 10, 11))
"""Bytes of the timed tensors: 4 B, 4 KiB, 64 KiB, 256 KiB, 1 MiB, 4 MiB and 16 MiB."""

LONGEST, REPEATS, PATIENCE = 0.3, 5, 0.15
"""LONGEST: seconds that a call may take; larger sizes that would take longer are skipped. REPEATS, PATIENCE: calls of
each size, fewer if they take more than so many seconds together."""


@dataclass(frozen=True)
class Cost:
    """The cost of a kind of collective: seconds a call and a byte of traffic, and the CPU seconds among them."""

    alpha: float
    per_byte: float
    cpu_alpha: float = 0.0
    cpu_per_byte: float = 0.0

    @property
    def beta(self) -> float:
        """Bandwidth in bytes a second; inf if the timed seconds did not depend on the size."""
        return 1 / self.per_byte if self.per_byte > 0 else float("inf")

    def part(self, traffic: float) -> Part:
        """The cost of one call with `traffic` bytes."""
        seconds, cpu = self.alpha + traffic * self.per_byte, self.cpu_alpha + traffic * self.cpu_per_byte
        return Part(min(seconds, cpu), max(0.0, seconds - cpu))

    def at(self, beta: float) -> Cost:
        """The same cost at another bandwidth, in bytes a second.

        CPU seconds stay; `part` caps them at the seconds of the call.
        """
        return replace(self, per_byte=1 / beta)


@dataclass(frozen=True)
class Link:
    """The cost of every kind of collective among `size` ranks.

    share: part of its speed at which each lane of the timeline runs while both need a core, in (0, 1]. inside, between:
    the costs among the ranks of one island, and among ranks of different islands; None if there are no islands.
    """

    size: int
    share: float
    costs: Mapping[str, Cost]
    inside: Link | None = None
    between: Link | None = None

    def part(self, kind: str, traffic: float, axis: Axis | None = None) -> Part:
        """The cost of one call, among all ranks or in the groups along an axis; without traffic it costs nothing."""
        return self._along(axis).costs[kind].part(traffic) if traffic > 0 else Part(0.0, 0.0)

    def at(self, beta: float) -> Link:
        """The same ranks at another bandwidth, in bytes a second; links inside islands keep theirs."""
        between = None if self.between is None else self.between.at(beta)
        return replace(self, costs={kind: cost.at(beta) for kind, cost in self.costs.items()}, between=between)

    def _along(self, axis: Axis | None) -> Link:
        """The link that groups along an axis use: inside or between islands; for other groupings that of all ranks."""
        if axis is None or self.inside is None or self.between is None:
            return self
        island = self.inside.size
        if island % (axis.size * axis.stride) == 0:
            return self.inside
        return self.between if axis.stride % island == 0 else self


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit seconds a call and a byte, both >= 0, to points (traffic, seconds) by least squares of relative errors."""
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
    """The part of its speed at which each lane runs while both compute, averaged over the ranks; 1 on a GPU.

    On a rank it is the machine's cores per rank divided by the threads that compete for them (torch's and one more), at
    most 1. Every rank calls it.
    """
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
        if not timed:  # an untimed warm-up: the first call of a kind opens connections
            _once(device, call)
        seconds, cpu = _time(process, device, call)
        timed.append((traffic, seconds))
        cores.append((traffic, cpu))
        if seconds > LONGEST / 3:  # the next would take four times as long
            break
    return Cost(*fit(timed), *fit(cores))


def _call(process: Process, device: torch.device, kind: str, nbytes: int) -> tuple[Callable[[], None], float]:
    """Return a call of a collective on `nbytes` bytes (an AllToAll rounds up to a row a rank), and its traffic."""
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
    """Ignore the answer: only the call is timed."""


def _time(process: Process, device: torch.device, call: Callable[[], None]) -> tuple[float, float]:
    """Median seconds and CPU seconds of a call, averaged over the ranks, which all make equally many calls."""
    first = _mean(process, device, *_once(device, call))
    timed = [first]
    while len(timed) < REPEATS and len(timed) * first[0] < PATIENCE:
        timed.append(_once(device, call))
    seconds, cpu = zip(*timed, strict=True)
    return _mean(process, device, statistics.median(seconds), statistics.median(cpu))


def _once(device: torch.device, call: Callable[[], None]) -> tuple[float, float]:
    """Time one call: wall seconds, and CPU seconds of this process."""
    started, busy = time.perf_counter(), time.process_time()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, time.process_time() - busy


def _mean(process: Process, device: torch.device, seconds: float, cpu: float) -> tuple[float, float]:
    """Average two figures over the ranks, so that all ranks decide alike."""
    figures = torch.tensor([seconds, cpu], dtype=torch.float64, device=device)
    dist.all_reduce(figures, group=process.group)
    return figures[0].item() / process.size, figures[1].item() / process.size
