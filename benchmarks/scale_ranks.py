"""The ranks of scale_check.py: they time exchanges, and collectives of few and of many bytes."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

import gradwire as gw
from gradwire.advice.network import HOPS
from gradwire.engine import Unit, make_units
from gradwire.lab import remote
from gradwire.memory import Guard
from gradwire.transport.group import own_group
from gradwire.transport.process import Process

TINY_CALLS, LONG_CALLS = 15, 3
PROBE = 1 << 18
"""Bytes that a rank brings to a long collective."""
UNIT = 2.0**30


@dataclass(frozen=True)
class Case:
    """What the ranks measure: a number of rounds of every method."""

    methods: tuple[str, ...]
    rounds: int


@dataclass(frozen=True)
class Found:
    """The result. steps, low, high: seconds of a step by method. latency, rate: by kind of collective. load: average."""

    steps: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    latency: dict[str, float]
    rate: dict[str, float]
    load: float


def model() -> nn.Module:
    """A model of 1.7 M parameters in twelve tensors."""
    torch.manual_seed(0)
    widths = (256, 512, 768, 768, 512, 256, 128)
    return nn.Sequential(*(nn.Linear(one, two) for one, two in itertools.pairwise(widths)))


def gradients(net: nn.Module, rank: int) -> list[Tensor]:
    """Random gradients with uneven magnitudes over the tensors and inside them."""
    rng = torch.Generator().manual_seed(rank)
    found: list[Tensor] = []
    for number, param in enumerate(net.parameters()):
        scaled = torch.randn(param.shape, generator=rng).pow(3) / (1 + number)
        found.append(scaled)
    return found


def measure(case: Case, report: remote.Report) -> Found:
    """Calibrate, then time the methods in rounds, so that slow moments affect all of them; every rank calls it."""
    process = Process(own_group(dist.group.WORLD, torch.device("cpu")))
    latency = {kind: probe(process, kind) for kind in HOPS}
    rate = {kind: bandwidth(process, kind, latency[kind]) for kind in HOPS}
    net = model()
    own = gradients(net, process.rank)
    timed: dict[str, list[float]] = {method: [] for method in case.methods}
    runners = {method: Runner(method, net, own, process) for method in case.methods}
    for number in range(1 + case.rounds):
        for method, runner in runners.items():
            if number > 2 and method.startswith(("dense", "islands")):  # they take seconds each
                continue
            seconds = slowest(process, runner.step)
            if number:
                timed[method].append(seconds)
    process.close()
    return Found(
        {method: statistics.median(seconds) for method, seconds in timed.items()},
        {method: min(seconds) for method, seconds in timed.items()},
        {method: max(seconds) for method, seconds in timed.items()},
        latency,
        rate,
        os.getloadavg()[0],
    )


class Runner:
    """One method on a rank."""

    def __init__(self, method: str, net: nn.Module, own: list[Tensor], process: Process) -> None:
        self.process, self.number = process, 0
        named = list(net.named_parameters())[::-1]
        self.exchange = None if method == "dense" else Guard(gw.parse(method))
        self.units: list[Unit] = make_units(named, self.exchange or Guard(gw.parse("mean")), UNIT)
        self.own = {id(param): gradient for param, gradient in zip(net.parameters(), own, strict=True)}
        self.flat = torch.cat([gradient.flatten() for gradient in own])

    def step(self) -> None:
        """Exchange all units once."""
        if self.exchange is None:
            self.process.overwrite(gw.AllReduce(self.flat))
            return
        self.number += 1
        for unit in self.units:
            unit.begin()
            for tensor, gradient in self.own.items():
                unit.fill(tensor, gradient.clone())
            turn = gw.Turn(self.process.rank, self.process.size, self.number, unit.layout, 0, (), unit.params, 0.1)
            self.process.run(unit.average(self.exchange, turn))


def probe(process: Process, kind: str) -> float:
    """Median seconds of a collective of a few bytes."""
    ask = asking(kind, 4, process.size)
    return statistics.median(slowest(process, lambda: process.ask(ask)) for _ in range(TINY_CALLS))


def bandwidth(process: Process, kind: str, latency: float) -> float:
    """Bytes a second of a long collective on the busiest link, from the median of a few calls."""
    ask = asking(kind, PROBE, process.size)
    seconds = statistics.median(slowest(process, lambda: process.ask(ask)) for _ in range(LONG_CALLS))
    return ask.busiest(process.size) / max(seconds - latency, 1e-9)


def asking(kind: str, nbytes: int, size: int) -> gw.AllReduce | gw.AllGather | gw.Broadcast | gw.AllToAll:
    """A collective to which a rank brings `nbytes` bytes (an AllToAll: `nbytes` for each rank)."""
    asks = {
        "AllReduce": gw.AllReduce(torch.zeros(nbytes // 4)),
        "AllGather": gw.AllGather(torch.zeros(nbytes, dtype=torch.uint8)),
        "Broadcast": gw.Broadcast(torch.zeros(nbytes // 4), 0),
        "AllToAll": gw.AllToAll(torch.zeros((size, nbytes), dtype=torch.uint8)),
    }
    return asks[kind]


def slowest(process: Process, act: Callable[[], object]) -> float:
    """Seconds of an action from a common start until the slowest rank is done."""
    dist.barrier()
    started = time.perf_counter()
    act()
    spent = torch.tensor([time.perf_counter() - started])
    return float(process.ask(gw.AllReduce(spent, op="max")))
