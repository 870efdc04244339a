"""Who averages the gradients: here a simulator for all workers in one process; `rank.py` has one of n processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from gradwire.checkpoint import flatten
from gradwire.exchange import Exchange, State
from gradwire.lab.training.settings import Training
from gradwire.layout import Layout
from gradwire.memory.guard import Guard
from gradwire.simulator import Simulator
from gradwire.spec import parse
from gradwire.transport import Ledger
from gradwire.vector import Sent, Sparse, Vector

Memory: TypeAlias = dict[str, Tensor]
"""One worker's state, by dotted names."""


class Average(Protocol):
    """Averages over all workers of a run, and knows what lies in this process."""

    @property
    def workers(self) -> Sequence[int]:
        """Workers whose gradients this process computes."""
        ...

    @property
    def states(self) -> Sequence[State]:
        """Their states."""
        ...

    @property
    def ledger(self) -> Ledger:
        """What they have sent."""
        ...

    def send(self, xs: Tensor, step: int, point: Tensor, lr: float) -> Sent:
        """Average f[workers here, d]; what the first of them knows, until the next call."""
        ...

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Add numbers up over all processes, and send nothing that the ledger would count."""
        ...

    def memories(self) -> list[Memory]:
        """Copy all workers' states; in a process other than the first of several, nothing."""
        ...


Meet: TypeAlias = Callable[[Training, Layout], Average]
"""Makes an average for a layout."""


class Lockstep:
    """All workers in this process."""

    def __init__(self, training: Training, layout: Layout) -> None:
        self.simulator = Simulator(guarded(training), layout, training.workers, training.seed)
        self.simulator.start(torch.zeros(training.workers, layout.d))
        self.workers, self.ledger = range(training.workers), self.simulator.ledger

    @property
    def states(self) -> Sequence[State]:
        """The simulator's."""
        return self.simulator.state

    def send(self, xs: Tensor, step: int, point: Tensor, lr: float) -> Sent:
        """Every worker's mean; they are equal."""
        self.simulator.steps = step
        return self.simulator.send(xs, point, lr)[0]

    def total(self, numbers: Sequence[float]) -> list[float]:
        """What is here is all."""
        return list(numbers)

    def memories(self) -> list[Memory]:
        """Copies in the order of workers."""
        return [copied(state) for state in self.states]


def guarded(training: Training) -> Exchange:
    """The exchange behind a guard, as the hook has it: four bytes a step, and all see a run diverge."""
    exchange = parse(training.spec)
    return exchange if isinstance(exchange, Guard) else Guard(exchange)


def copied(state: State) -> Memory:
    """A state's tensors by dotted names."""
    return {name: values.clone() for _, _, name, values in flatten(state)}


def put_(state: State, memory: Memory, d: int) -> None:
    """Replace a state's tensors; ValueError if they are not those of this exchange. A fact may have another shape.

    What holds one value per coordinate has as many as there are, d.
    """
    mine = {name: (place, key, values) for place, key, name, values in flatten(state)}
    if mine.keys() != memory.keys():
        raise ValueError(f"a memory of {', '.join(mine) or 'nothing'} cannot take {', '.join(memory) or 'nothing'}")
    for name, (place, key, values) in mine.items():
        if values.shape == (d,) != memory[name].shape:
            raise ValueError(f"{name} has shape {tuple(memory[name].shape)} there and {(d,)} here")
        place[key] = memory[name].to(values.dtype, copy=True)


def residual(state: State) -> float | None:
    """Length of what error feedback has not said yet."""
    errors = [values for _, key, _, values in flatten(state) if key == "error"]
    return torch.cat(errors).square().sum().sqrt().item() if errors else None


def support(mean: Vector, dense: Tensor) -> int:
    """Entries that a mean has, given that f[d] is what it amounts to."""
    if isinstance(mean, Sparse):
        return int(torch.bincount(mean.indices.flatten()).count_nonzero())
    return int(dense.count_nonzero())
