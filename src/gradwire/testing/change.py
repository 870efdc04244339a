"""The law of exchanges about a change of workers between two steps."""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.exchange import Exchange, State
from gradwire.exchange.change import Change, change_
from gradwire.exchange.protocol import clone, visible
from gradwire.layout import Layout
from gradwire.testing.exchange import check_alike, check_form
from gradwire.testing.runs import Setup, check_sent, flat, gradients, one_step, run, start, turns
from gradwire.testing.trial import Law
from gradwire.transport import lockstep

STEPS = 2
"""Number of steps before the change, and of steps after it."""


def workers_come_and_go(exchange: Exchange, law: Law, setup: Setup) -> None:
    """If workers leave and join between two steps, the law still holds, and an "error" keeps its mean, (1/n) sum."""
    layout, n = setup.layout, setup.some
    *_, (_, _, before, _) = run(exchange, n, layout, setup.seed, torch.float64, STEPS)
    for after in sorted({min(setup.workers), max(setup.workers)}):
        stay = min(n, after)
        with law.at(n=n, stayed=stay, after=after, seed=setup.seed) as trial:
            states = _changed(exchange, [clone(visible(state)) for state in before[n - stay :]], n, after, layout)
            first, *others = map(flat, states)
            check_form(trial, flat(exchange.init(layout, torch.float64)), first, layout.d)
            for rank, other in enumerate(others, 1):
                check_alike(trial, first, other, rank, layout.d)
            here, there = _owed(before[n - stay :]) / n, _owed(states) / after
            # An error of n / after times what it was is rounded to its dtype: by half a unit in the last place.
            rounded = _owed([_magnitudes(state) for state in states]) / after * _unit(first) / 2
            trial.close(there, here, 1e-12 + rounded, "the mean error is not what it was of those who stayed")
            for step in range(STEPS, 2 * STEPS):
                xs = gradients(after, layout, setup.seed + step, torch.float64)
                whose = turns(after, step, layout, setup.seed, xs.dtype)
                check_sent(trial, one_step(exchange, xs, states, whose), 1e-9, 1e-12)


def _changed(exchange: Exchange, stayed: list[State], before: int, after: int, layout: Layout) -> list[State]:
    """Run the change and return the states of `after` workers: new workers first, then those that stayed."""
    new = after - len(stayed)
    states = [*start(exchange, new, layout, torch.float64), *stayed]
    cpu = torch.device("cpu")
    changes = [Change(layout, before, len(stayed), after, new, rank < new, cpu) for rank in range(after)]
    lockstep([change_(exchange, state, change) for state, change in zip(states, changes, strict=True)])
    return states


def _owed(states: list[State]) -> Tensor:
    """The sum of all "error" tensors of the states, in float64; zeros if there are none."""
    errors = [part for state in states for name, part in flat(state).items() if name.endswith("error")]
    return torch.stack(errors).double().sum(0) if errors else torch.zeros(1)


def _magnitudes(state: State) -> State:
    return {name: part.abs() for name, part in flat(state).items()}


def _unit(state: dict[str, Tensor]) -> float:
    """The largest machine epsilon of the state's "error" tensors; float64 counts as 0."""
    kinds = [part.dtype for name, part in state.items() if name.endswith("error")]
    return max((torch.finfo(kind).eps for kind in kinds if kind != torch.float64), default=0.0)
