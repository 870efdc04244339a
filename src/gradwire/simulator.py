"""The laboratory life of an exchange: n workers in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.exchange import Exchange, State
from gradwire.exchange.law import BrokenLaw, law_broken, tolerance
from gradwire.exchange.protocol import clone, flatten
from gradwire.exchange.step import step
from gradwire.layout import Layout, Turn
from gradwire.memory.guard import Guard
from gradwire.memory.shift import start_
from gradwire.reprs import describe
from gradwire.spec import as_exchange
from gradwire.transport import EVERYBODY, Ledger, batched, lockstep
from gradwire.vector import Dense, Sent, widen


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
        batched: run one coroutine for all workers instead of one for each. Much faster, and the same in distribution;
            lockstep, the default, is bit for bit what happens on a network.
        check: assert the law at every step (BrokenLaw, an AssertionError, that names the step and the worker).

    `state` is the list of the workers' states, or of the one state of a batch, made by the first step in the dtype of
    its vectors and float32 at least; `ledger` counts what was sent.
    """

    def __init__(
        self,
        exchange: Exchange | str,
        layout: Layout,
        workers: int,
        seed: int = 0,
        *,
        batched: bool = False,
        check: bool = False,
    ) -> None:
        if workers < 1:
            raise ValueError(f"a simulation needs at least one worker, got {workers}")
        self.exchange = as_exchange(exchange, "Simulator")
        self.check, self._largest = check, 0.0
        self.layout, self.workers, self.seed, self.batched, self.steps = layout, workers, seed, batched, 0
        self.state: list[State] = []
        self.ledger = Ledger(workers)

    def step(self, xs: Tensor, params: Tensor | None = None, lr: float | None = None, budget: float = 1.0) -> Round:
        """Average f[n, d], one row a worker; rows must be finite, or the exchange a guard.

        Under a guard a step is skipped if a row, or what comes of it, is not finite: the memory stays as it was, and
        the mean is the plain one.

        `params` f[d] is the model, `lr` this step's learning rate, `budget` its part of a budget (`Turn.budget`), for
        methods that ask.

        Raises:
            ValueError: another shape, or a value that is not finite, naming the worker.
        """
        if xs.shape != (self.workers, self.layout.d):
            raise ValueError(f"expected vectors of shape {(self.workers, self.layout.d)}, got {tuple(xs.shape)}")
        if params is not None and params.shape != (self.layout.d,):
            raise ValueError(f"expected params of shape {(self.layout.d,)}, got {tuple(params.shape)}")
        finite = xs.isfinite().all(-1)
        if not isinstance(self.exchange, Guard) and not bool(finite.all()):
            worker = int(finite.logical_not().nonzero()[0])
            raise ValueError(
                f"worker {worker}'s vector holds a value that is not finite; wrap the exchange in guard(...)"
            )
        sent = self.send(xs, params, lr, budget)
        own = [worker.own.dense() for worker in sent]
        return Round(own[0].clone() if self.batched else torch.stack(own), sent[0].mean.dense().clone())

    def send(
        self, xs: Tensor, params: Tensor | None = None, lr: float | None = None, budget: float = 1.0
    ) -> list[Sent]:
        """Do what `step` does, unchecked: what every worker knows, or the batch, until the next step."""
        if not self.state:
            self.start(xs)
        before = [clone(state) for state in self.state] if isinstance(self.exchange, Guard) else None
        sent = self.send_at(self.steps, xs, params, lr, budget)
        self.steps += 1
        if before is not None and all(one.finite for one in sent) and not self._finite(sent):
            sent = self._skip(xs, before)
        if self.check:
            self._check(sent)
        return sent

    def send_at(
        self, at: int, xs: Tensor, params: Tensor | None = None, lr: float | None = None, budget: float = 1.0
    ) -> list[Sent]:
        """Do what `send` does as step number `at`. Neither counts steps nor checks the law."""
        if not self.state:
            self.start(xs)
        known = None if params is None else lambda: params
        if self.batched:
            turn = Turn(EVERYBODY, self.workers, at, self.layout, self.seed, params=known, lr=lr, budget=budget)
            return [batched(step(self.exchange, xs, self.state[0], turn), self.workers, self.ledger)]
        turns = [
            Turn(rank, self.workers, at, self.layout, self.seed, params=known, lr=lr, budget=budget)
            for rank in range(self.workers)
        ]
        talks = [step(self.exchange, x, state, turn) for x, state, turn in zip(xs, self.state, turns, strict=True)]
        return lockstep(talks, self.ledger)

    def _finite(self, sent: Sequence[Sent]) -> bool:
        """Whether what was sent and what is kept is finite, which sums of huge values are not."""
        vectors = [vector.dense() for one in sent for vector in (one.own, one.mean)]
        kept = [values for state in self.state for _, _, _, values in flatten(state) if values.is_floating_point()]
        return all(bool(values.isfinite().all()) for values in vectors + kept)

    def _skip(self, xs: Tensor, before: Sequence[State]) -> list[Sent]:
        """Take back a step that has overflowed, as a door does: the memory as it was, and the plain mean."""
        for state, old in zip(self.state, before, strict=True):
            state.clear()
            state.update(old)
        mean = Dense(xs.mean(0))
        return [Sent(Dense(x), mean, finite=False) for x in ([xs] if self.batched else xs)]

    def _check(self, sent: Sequence[Sent]) -> None:
        """Assert the law of the step that has just ended; where a guard has let it through, that all know so."""
        if not all(worker.finite for worker in sent):
            wrong = _disagree(sent)
        else:
            owns = list(sent[0].own.dense()) if self.batched else [worker.own.dense() for worker in sent]
            means = [worker.mean.dense() for worker in sent]
            values = [float(vector.abs().max()) for vector in (*owns, *means) if vector.numel()]
            self._largest = max(self._largest, *values, 0.0)
            wrong = law_broken(owns, means, 0.0, tolerance(means[0].dtype, self.workers) * self._largest)
        if wrong is not None:
            raise BrokenLaw(f"{describe(self.exchange)} breaks the law of exchanges at step {self.steps - 1}: {wrong}")

    def start(self, like: Tensor, shifts: Tensor | None = None) -> None:
        """Make the states in the dtype and on the device of `like`, their shifts at zero or at f[n, d].

        Raises:
            ValueError: the exchange does not fit the layout or the transport, or keeps no shifts.
        """
        dtype = widen(like[:0]).dtype
        leads: list[tuple[int, ...]] = [(self.workers,)] if self.batched else [()] * self.workers
        self.state = [self.exchange.init(self.layout, dtype, like.device, batch_shape) for batch_shape in leads]
        if shifts is not None:
            mean = shifts.mean(0)
            for state, rows in zip(self.state, [shifts] if self.batched else shifts, strict=True):
                start_(state, rows, mean)


def _disagree(sent: Sequence[Sent]) -> str | None:
    """Say which worker's guard has seen a broken step that worker 0's has not, or the other way round."""
    for worker, one in enumerate(sent):
        if one.finite != sent[0].finite:
            return f"worker {worker}'s finite is {one.finite} and worker 0's is {sent[0].finite}"
    return None
