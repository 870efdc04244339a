"""One rank of a task's training: `python -m gradwire.lab.training.on_ranks ORDER`, one worker a rank.

An order is JSON: {"training": {...}, "save": FILE or null, "resume": FILE or null}.

The loop is that of one process, and so are gradients, memories and checkpoints; only the asks go over gloo. Rank 0
prints events, one JSON object a line: step, evaluation, end. A rank that is given something bad prints an `error`
event with one sentence and ends with code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from gradwire.checkpoint import flatten
from gradwire.exchange import State
from gradwire.lab.remote import live, say
from gradwire.lab.training.average import Memory, guarded
from gradwire.lab.training.loop import follow
from gradwire.lab.training.settings import Event, Step, Training
from gradwire.layout import Layout, Turn
from gradwire.transport.process import Process
from gradwire.vector import Sent


class Rank:
    """One worker of a process group of its own kind; the numbers that are no part of training bypass the ledger."""

    def __init__(self, training: Training, layout: Layout) -> None:
        self.process = Process(dist.group.WORLD)  # pyright: ignore[reportArgumentType]
        rank, size = self.process.rank, self.process.size
        if size != training.workers:
            raise ValueError(f"a run of {training.workers} workers needs as many ranks, got {size}")
        self.exchange, self.turn = guarded(training), (rank, size, layout, training.seed)
        self.states: Sequence[State] = (self.exchange.init(layout),)
        self.workers, self.ledger = (rank,), self.process.ledger

    def send(self, xs: Tensor, step: int, point: Tensor, lr: float) -> Sent:
        """Average over the ranks."""
        rank, size, layout, seed = self.turn
        turn = Turn(rank, size, step, layout, seed, params=lambda: point, lr=lr)
        return self.process.run(self.exchange(xs[0], self.states[0], turn))

    def total(self, numbers: Sequence[float]) -> list[float]:
        """One all-reduce of a few numbers."""
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(number) for number in sums]

    def memories(self) -> list[Memory]:
        """Gather all states on rank 0. What is no vector of gradients is equal on all ranks, and so are its shapes."""
        found: list[Memory] = [{} for _ in range(self.process.size)]
        for _, _, name, values in flatten(self.states[0]):
            parts = [torch.empty_like(values) for _ in found] if self.process.rank == 0 else None
            if values.numel():
                dist.gather(values.contiguous(), parts)
            for memory, part in zip(found, parts or (), strict=False):
                memory[name] = part
        return found if self.process.rank == 0 else []


def main() -> None:
    """Train, and leave."""
    live(_run, 300, (ValueError, ArithmeticError, ModuleNotFoundError, FileNotFoundError))


def _run() -> None:
    order = json.loads(sys.argv[1])
    save, resume = (Path(order[name]) if order[name] else None for name in ("save", "resume"))
    history = follow(Training.from_dict(order["training"]), Rank, _tell, resume, save)
    say("end", parameters=history.parameters, source=history.source)


def _tell(event: Event) -> None:
    say("step" if isinstance(event, Step) else "evaluation", **asdict(event))


if __name__ == "__main__":
    main()
