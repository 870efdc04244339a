"""What the exchange's laws share: n workers in lockstep, their vectors, and what an exchange may return."""

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
"""Steps of a run: enough for a memory to fill, and for a plan that is made every third step to be made anew."""


@dataclass(frozen=True)
class Setup:
    """Where an exchange is tried: the numbers of workers, the layout, the seed."""

    workers: tuple[int, ...]
    layout: Layout
    seed: int

    @property
    def some(self) -> int:
        """Three workers, if the exchange runs with three; else the first number above one."""
        return 3 if 3 in self.workers else next((n for n in self.workers if n > 1), self.workers[0])


def gradients(n: int, layout: Layout, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """f[n, d]: uneven magnitudes over layers and workers, as gradients have them."""
    x = normal(n, layout.d, seed=seed)
    return (x * torch.logspace(0, -3, layout.d, dtype=torch.float64)).to(dtype)


def params(layout: Layout, dtype: torch.dtype = torch.float32) -> Tensor:
    """f[d]: a model, for methods that compress iterates."""
    return torch.linspace(-1, 1, layout.d, dtype=torch.float64).to(dtype)


def turns(
    n: int, number: int, layout: Layout, seed: int, dtype: torch.dtype, model: Tensor | None = None
) -> list[Turn]:
    """The workers' turns at one step; the learning rate is 0.1."""
    known = params(layout, dtype) if model is None else model
    return [Turn(rank, n, number, layout, seed, params=lambda: known, lr=0.1) for rank in range(n)]


def start(exchange: Exchange, n: int, layout: Layout, dtype: torch.dtype) -> list[State]:
    """The workers' states before the first step, float32 at least."""
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
    """Yield (step, xs f[n, d], states, what every worker knows) of n workers in lockstep."""
    states = start(exchange, n, layout, dtype)
    for number in range(steps):
        xs = vectors(number) if vectors else gradients(n, layout, seed + number, dtype)
        yield number, xs, states, one_step(exchange, xs, states, turns(n, number, layout, seed, dtype))


def one_step(exchange: Exchange, xs: Tensor, states: list[State], whose: list[Turn]) -> list[Sent]:
    """One step of all workers in lockstep."""
    return lockstep([step(exchange, x, s, t) for x, s, t in zip(xs, states, whose, strict=True)])


def run_batched(
    exchange: Exchange, n: int, layout: Layout, seed: int, dtype: torch.dtype = torch.float64, steps: int = STEPS
) -> Iterator[tuple[int, Tensor, Sent]]:
    """Yield (step, xs f[n, d], what the batch knows) of n workers in one coroutine."""
    state = exchange.init(layout, widen(torch.empty(0, dtype=dtype)).dtype, batch_shape=(n,))
    known = params(layout, dtype)
    for number in range(steps):
        xs = gradients(n, layout, seed + number, dtype)
        turn = Turn(ALL_ROWS, n, number, layout, seed, params=lambda: known, lr=0.1)
        yield number, xs, batched(step(exchange, xs, state, turn), n)


def runs_batched(exchange: Exchange, n: int, layout: Layout) -> bool:
    """Whether an exchange runs batched: one whose part depends on the rank refuses with a ValueError."""
    try:
        for _ in run_batched(exchange, n, layout, 0, steps=1):
            pass
    except ValueError as error:
        if "batched" not in str(error):
            raise
        return False
    return True


def check_sent(trial: Trial, sent: list[Sent], rtol: float, atol: float) -> None:
    """Fail unless all workers know one mean, the average of their own within rtol |mean| + atol."""
    wrong = law_broken([w.own.dense() for w in sent], [w.mean.dense() for w in sent], rtol, atol)
    if wrong is not None:
        trial.fail(wrong)


def flat(state: State, path: str = "") -> dict[str, Tensor]:
    """The tensors of a state by their names, "inner.error" and so on; names that begin with "_" are scratch."""
    found: dict[str, Tensor] = {}
    for name, part in state.items():
        if not name.startswith("_"):
            found |= flat(part, f"{path}{name}.") if isinstance(part, dict) else {path + name: part}
    return found
