"""Shared by the laws of exchanges: n workers in lockstep or batched, test vectors, and the check of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.exchange import Exchange, State
from gradwire.exchange.law import law_broken
from gradwire.exchange.step import step
from gradwire.layout import Layout, Turn
from gradwire.testing.trial import Trial, normal
from gradwire.transport import ALL_ROWS, batched, lockstep
from gradwire.vector import Sent, widen

STEPS = 4
"""Steps of a run: enough to fill a memory and to renew a plan that is made every third step."""


@dataclass(frozen=True)
class Setup:
    """How an exchange is tested: the numbers of workers, the layout, the seed."""

    workers: tuple[int, ...]
    layout: Layout
    seed: int

    @property
    def some(self) -> int:
        """The number of workers where one is enough: 3 if it is among `workers`, else the first one above 1, if any."""
        return 3 if 3 in self.workers else next((n for n in self.workers if n > 1), self.workers[0])


def gradients(n: int, layout: Layout, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """f[n, d]: normal values whose scale falls from 1 to 1e-3 over the d coordinates, uneven like gradients."""
    x = normal(n, layout.d, seed=seed)
    return (x * torch.logspace(0, -3, layout.d, dtype=torch.float64)).to(dtype)


def params(layout: Layout, dtype: torch.dtype = torch.float32) -> Tensor:
    """f[d]: model parameters, for methods that compress iterates."""
    return torch.linspace(-1, 1, layout.d, dtype=torch.float64).to(dtype)


def turns(
    n: int, number: int, layout: Layout, seed: int, dtype: torch.dtype, model: Tensor | None = None
) -> list[Turn]:
    """The turns of n workers at one step, with a learning rate of 0.1."""
    known = params(layout, dtype) if model is None else model
    return [Turn(rank, n, number, layout, seed, params=lambda: known, lr=0.1) for rank in range(n)]


def start(exchange: Exchange, n: int, layout: Layout, dtype: torch.dtype) -> list[State]:
    """The states of n workers before the first step, in float32 or wider."""
    kept = widen(torch.empty(0, dtype=dtype)).dtype
    return [exchange.init(layout, kept) for _ in range(n)]


def run(
    exchange: Exchange,
    n: int,
    layout: Layout,
    seed: int,
    dtype: torch.dtype = torch.float32,
    steps: int = STEPS,
    vectors: Callable[[int], Tensor] | None = None,
) -> Iterator[tuple[int, Tensor, list[State], list[Sent]]]:
    """Run n workers in lockstep and yield (step, xs f[n, d], states after the step, every worker's result)."""
    states = start(exchange, n, layout, dtype)
    for number in range(steps):
        xs = vectors(number) if vectors else gradients(n, layout, seed + number, dtype)
        yield number, xs, states, one_step(exchange, xs, states, turns(n, number, layout, seed, dtype))


def one_step(exchange: Exchange, xs: Tensor, states: list[State], whose: list[Turn]) -> list[Sent]:
    """Run one step of all workers in lockstep."""
    return lockstep([step(exchange, x, s, t) for x, s, t in zip(xs, states, whose, strict=True)])


def run_batched(
    exchange: Exchange, n: int, layout: Layout, seed: int, dtype: torch.dtype = torch.float64, steps: int = STEPS
) -> Iterator[tuple[int, Tensor, Sent]]:
    """Run n workers batched, in one coroutine, and yield (step, xs f[n, d], the batch's result)."""
    state = exchange.init(layout, widen(torch.empty(0, dtype=dtype)).dtype, batch_shape=(n,))
    known = params(layout, dtype)
    for number in range(steps):
        xs = gradients(n, layout, seed + number, dtype)
        turn = Turn(ALL_ROWS, n, number, layout, seed, params=lambda: known, lr=0.1)
        yield number, xs, batched(step(exchange, xs, state, turn), n)


def runs_batched(exchange: Exchange, n: int, layout: Layout) -> bool:
    """Whether an exchange runs batched; one whose work depends on the rank raises a ValueError that says so."""
    try:
        for _ in run_batched(exchange, n, layout, 0, steps=1):
            pass
    except ValueError as error:
        if "batched" not in str(error):
            raise
        return False
    return True


def check_sent(trial: Trial, sent: list[Sent], rtol: float, atol: float) -> None:
    """Fail unless all workers return one mean, and the average of their `own` is within rtol |mean| + atol of it."""
    wrong = law_broken([w.own.dense() for w in sent], [w.mean.dense() for w in sent], rtol, atol)
    if wrong is not None:
        trial.fail(wrong)


def flat(state: State, path: str = "") -> dict[str, Tensor]:
    """The tensors of a nested state by dotted name, such as "inner.error", without scratch (names that begin "_")."""
    found: dict[str, Tensor] = {}
    for name, part in state.items():
        if not name.startswith("_"):
            found |= flat(part, f"{path}{name}.") if isinstance(part, dict) else {path + name: part}
    return found
