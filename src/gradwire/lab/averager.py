"""Averaging the vectors of n workers: all workers in one process, or one process for each.

The loops of the laboratory (`convex.descent`, `training.loop`) use `Averager`, so they do not depend on where the
workers are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor

from gradwire.exchange import Exchange, State
from gradwire.exchange.protocol import flatten
from gradwire.lab.repeated import SHORT, Once, Repeated, each
from gradwire.layout import Layout, Turn
from gradwire.memory import start_
from gradwire.simulator import Simulator
from gradwire.transport import Ledger
from gradwire.transport.process import Process
from gradwire.vector import Sent

Memory: TypeAlias = dict[str, Tensor]
"""One worker's state: tensors by dotted name."""


class Averager(Protocol):
    """Averages the vectors of all n workers, some or all of which are in this process."""

    @property
    def workers(self) -> range:
        """The workers whose vectors this process computes."""
        ...

    @property
    def states(self) -> Sequence[State]:
        """The states of the workers in this process."""
        ...

    @property
    def ledger(self) -> Ledger:
        """What the workers in this process have sent."""
        ...

    def send(self, xs: Tensor, step: int, params: Tensor, lr: float | None = None) -> Sent:
        """Average xs, f[workers in this process, d]; return the first worker's result, valid until the next call."""
        ...

    def repeated(self, once: Once) -> Callable[[range], None]:
        """Return a function that runs `once(step)`, a round that calls `send`, for every step of a range."""
        ...

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Sum numbers over all processes; not counted in the ledger."""
        ...

    def memories(self) -> list[Memory]:
        """Return copies of all n workers' states, in order; an empty list in every process but the first."""
        ...


class Meet(Protocol):
    """Makes an averager. shifts: f[n, d], the initial shifts of shifted memories."""

    def __call__(
        self,
        exchange: Exchange,
        layout: Layout,
        workers: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        shifts: Tensor | None = None,
    ) -> Averager:
        """Make the averager."""
        ...


class InProcess:
    """All workers in this process: in lockstep, with the bits of a network, or batched, which is faster."""

    def __init__(
        self,
        exchange: Exchange,
        layout: Layout,
        workers: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        shifts: Tensor | None = None,
        *,
        batched: bool = False,
    ) -> None:
        self.simulator = Simulator(exchange, layout, workers, seed, batched=batched)
        self.simulator.start(torch.empty(0, dtype=dtype), shifts)
        self.workers, self.ledger = range(workers), self.simulator.ledger

    @property
    def states(self) -> Sequence[State]:
        """The simulator's states: one for each worker, or one for the batch."""
        return self.simulator.state

    def send(self, xs: Tensor, step: int, params: Tensor, lr: float | None = None) -> Sent:
        """Average the rows of xs f[n, d]."""
        return self.simulator.send_at(step, xs, params, lr)[0]

    def repeated(self, once: Once) -> Callable[[range], None]:
        """Run batched rounds of short vectors from a recording, if they can be recorded; run others as they are."""
        short = self.simulator.batched and self.simulator.workers * self.simulator.layout.d <= SHORT
        return Repeated(once, self.simulator) if short else functools.partial(each, once)

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Return the numbers: there is no other process."""
        return list(numbers)

    def memories(self) -> list[Memory]:
        """Copy the states, in the order of the workers."""
        return [{name: values.clone() for _, _, name, values in flatten(state)} for state in self.states]


class OnRank:
    """One worker a rank of the existing default process group; ValueError if it has not `workers` ranks."""

    def __init__(
        self,
        exchange: Exchange,
        layout: Layout,
        workers: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        shifts: Tensor | None = None,
    ) -> None:
        self.process = Process(cast(dist.ProcessGroup, dist.group.WORLD))
        rank = self.process.rank
        if self.process.size != workers:
            raise ValueError(f"a run of {workers} workers needs as many ranks, got {self.process.size}")
        self.exchange, self.layout, self.seed = exchange, layout, seed
        self.states: Sequence[State] = (exchange.init(layout, dtype),)
        if shifts is not None:
            start_(self.states[0], shifts[rank], shifts.mean(0))
        self.workers, self.ledger = range(rank, rank + 1), self.process.ledger

    def send(self, xs: Tensor, step: int, params: Tensor, lr: float | None = None) -> Sent:
        """Average xs f[1, d] over the ranks."""
        rank, size = self.process.rank, self.process.size
        turn = Turn(rank, size, step, self.layout, self.seed, params=lambda: params, lr=lr)
        return self.process.run(self.exchange(xs[0], self.states[0], turn))

    def repeated(self, once: Once) -> Callable[[range], None]:
        """Run the rounds as they are: they contain collectives, which cannot be recorded."""
        return functools.partial(each, once)

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Sum a few numbers by one all-reduce in float64."""
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(number) for number in sums]

    def memories(self) -> list[Memory]:
        """Gather all states on rank 0; their shapes must be equal on all ranks."""
        found: list[Memory] = [{} for _ in range(self.process.size)]
        for _, _, name, values in flatten(self.states[0]):
            parts = [torch.empty_like(values) for _ in found] if self.process.rank == 0 else None
            if values.numel():
                dist.gather(values.contiguous(), parts)
            for memory, part in zip(found, parts or (), strict=False):
                memory[name] = part
        return found if self.process.rank == 0 else []
