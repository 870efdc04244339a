"""The lockstep life of an exchange: n workers in one process, exactly as on a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.exchange import Exchange, State
from gradwire.layout import Layout, Turn
from gradwire.memory import Guard
from gradwire.spec import parse
from gradwire.transport import Ledger, lockstep
from gradwire.vector import widen


@dataclass(frozen=True)
class Round:
    """What one simulated step gave: own f[n, d], each worker's part, and mean f[d], their average."""

    own: Tensor
    mean: Tensor


class Simulator:
    """Run an exchange over n simulated workers, one step at a time.

    Args:
        exchange: an exchange or its spec, such as "ef(deft(density=0.01))".
        layout: names and shapes of what lies in the vectors.
        workers: n, at least 1.
        seed: of all randomness; the same seed gives the same run, here and under DDP.

    `state` is the list of the workers' states, made by the first step in the dtype of its vectors and float32 at least;
    `ledger` counts what was sent.
    """

    def __init__(self, exchange: Exchange | str, layout: Layout, workers: int, seed: int = 0) -> None:
        if workers < 1:
            raise ValueError(f"a simulation needs at least one worker, got {workers}")
        self.exchange = parse(exchange) if isinstance(exchange, str) else exchange
        self.layout, self.workers, self.seed, self.steps = layout, workers, seed, 0
        self.state: list[State] = []
        self.ledger = Ledger(workers)

    def step(self, xs: Tensor) -> Round:
        """Average f[n, d], one row a worker; rows must be finite.

        Raises:
            ValueError: another shape, or a value that is not finite, naming the worker.
        """
        if xs.shape != (self.workers, self.layout.d):
            raise ValueError(f"expected vectors of shape {(self.workers, self.layout.d)}, got {tuple(xs.shape)}")
        finite = xs.isfinite().all(-1)
        if not isinstance(self.exchange, Guard) and not bool(finite.all()):
            worker = int(finite.logical_not().nonzero()[0])
            raise ValueError(
                f"worker {worker}'s vector holds a value that is not finite; wrap the exchange in guard(...)"
            )
        if not self.state:
            dtype = widen(xs[:0]).dtype
            self.state = [self.exchange.init(self.layout, dtype, xs.device) for _ in range(self.workers)]
        turns = [Turn(rank, self.workers, self.steps, self.layout, self.seed) for rank in range(self.workers)]
        sent = lockstep(
            [self.exchange(x, state, turn) for x, state, turn in zip(xs, self.state, turns, strict=True)], self.ledger
        )
        self.steps += 1
        return Round(torch.stack([worker.own.dense() for worker in sent]), sent[0].mean.dense().clone())
