"""The simulator: it runs an exchange with n workers in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.exchange import Exchange, State
from gradwire.exchange.law import BrokenLaw, law_broken, tolerance
from gradwire.exchange.protocol import flatten
from gradwire.exchange.step import step
from gradwire.exchange.undo import keep_, logged, restore_
from gradwire.layout import Layout, Turn
from gradwire.memory.guard import Guard
from gradwire.memory.shift import start_
from gradwire.reprs import describe
from gradwire.spec import as_exchange
from gradwire.transport import ALL_ROWS, Ledger, batched, lockstep
from gradwire.vector import Dense, Sent, widen


@dataclass(frozen=True)
class Round:
    """The result of one simulated step: own f[n, d], what each worker sent, and mean f[d], their average."""

    own: Tensor
    mean: Tensor


class Simulator:
    """Run an exchange over n simulated workers, one step at a time.

    Args:
        exchange: an exchange or its spec, such as "ef(deft(density=0.01))".
        layout: names and shapes of the tensors in the vectors.
        workers: n, at least 1.
        seed: the seed of all randomness; the same seed gives the same run, here and under DDP.
        batched: run one coroutine for all workers instead of one per worker. It is much faster and equal in
            distribution; lockstep, the default, is bit-equal to a network, except that a network may sum in another
            order.
        check: assert the law at every step; BrokenLaw, an AssertionError, names the step and the worker.

    Attributes:
        state: the workers' states, or the one state of a batch. The first step makes them in its vectors' dtype, at
            least float32.
        ledger: counts what was sent.
        steps: steps so far.

    Raises:
        SpecError, TypeError: `exchange` is not an exchange.
        ValueError: `workers` is below 1.
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
        """Average xs f[n, d], one row per worker. Rows must be finite, unless the exchange is a guard.

        Under a guard a step is skipped if a row or a result is not finite: the memory does not change, and the mean is
        the plain one.

        Args:
            xs: the workers' vectors.
            params: f[d], the model at which the gradients were taken, for methods that compress iterates.
            lr: the learning rate of this step, for memories that keep it.
            budget: this layout's part of a common budget (`Turn.budget`).

        Raises:
            ValueError: a shape is wrong, or a worker's vector is not finite.
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
        """Run a step like `step`, without checking the arguments.

        Returns every worker's `Sent`, or the batch's one; they may share memory with the states until the next step.
        """
        if not self.state:
            self.start(xs)
        guarded = isinstance(self.exchange, Guard)
        for state in self.state if guarded else ():
            # Only a single worker's parts f[d] can be logged; a batch's are copied.
            keep_(state, frozenset() if self.batched else logged(self.exchange))
        sent = self.send_at(self.steps, xs, params, lr, budget)
        self.steps += 1
        if guarded and all(one.finite for one in sent) and not self._finite(sent):
            sent = self._skip(xs)
        if self.check:
            self._check(sent)
        return sent

    def send_at(
        self, at: int, xs: Tensor, params: Tensor | None = None, lr: float | None = None, budget: float = 1.0
    ) -> list[Sent]:
        """Run step number `at` like `send`, without counting it, checking the law or skipping a step that overflows."""
        if not self.state:
            self.start(xs)
        known = None if params is None else lambda: params
        if self.batched:
            turn = Turn(ALL_ROWS, self.workers, at, self.layout, self.seed, params=known, lr=lr, budget=budget)
            return [batched(step(self.exchange, xs, self.state[0], turn), self.workers, self.ledger)]
        turns = [
            Turn(rank, self.workers, at, self.layout, self.seed, params=known, lr=lr, budget=budget)
            for rank in range(self.workers)
        ]
        talks = [step(self.exchange, x, state, turn) for x, state, turn in zip(xs, self.state, turns, strict=True)]
        return lockstep(talks, self.ledger)

    def _finite(self, sent: Sequence[Sent]) -> bool:
        """Whether the results and the states are finite; sums of huge values may overflow."""
        vectors = [vector.dense() for one in sent for vector in (one.own, one.mean)]
        kept = [values for state in self.state for _, _, _, values in flatten(state) if values.is_floating_point()]
        return all(bool(values.isfinite().all()) for values in vectors + kept)

    def _skip(self, xs: Tensor) -> list[Sent]:
        """Undo a step that has overflowed, as the engine does: restore the memory, and return the plain mean."""
        for state in self.state:
            restore_(state)
        mean = Dense(xs.mean(0))
        return [Sent(Dense(x), mean, finite=False) for x in ([xs] if self.batched else xs)]

    def _check(self, sent: Sequence[Sent]) -> None:
        """Assert the law for the step just done; if a guard has skipped it, assert that all workers agree on that."""
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
        """Make the states in the dtype (at least float32) and on the device of `like`, with shifts at zero or f[n, d].

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
    """Describe the first worker whose `finite` differs from worker 0's; None if there is none."""
    for worker, one in enumerate(sent):
        if one.finite != sent[0].finite:
            return f"worker {worker}'s finite is {one.finite} and worker 0's is {sent[0].finite}"
    return None
