"""What a change of workers keeps, memory by memory. That the law still holds is checked for the whole
zoo in test_law.
"""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import Tensor

import gradwire as gw
from gradwire.exchange.change import Change, change_
from gradwire.exchange.protocol import clone
from gradwire.layout import Turn
from gradwire.testing.runs import flat
from gradwire.transport import lockstep

D = zoo.LAYOUT.d
MEMORIES = [spec for spec in zoo.SPECS if set(flat(gw.parse(spec).init(zoo.LAYOUT))) & {"h", "said", "error", "u", "v"}]


def worked(spec: str, n: int) -> list[dict]:
    """Return the states of n workers after three steps."""
    exchange = gw.parse(spec)
    states = [exchange.init(zoo.LAYOUT) for _ in range(n)]
    model = torch.linspace(-1, 1, D)
    for step in range(3):
        xs = torch.randn(n, D, generator=torch.Generator().manual_seed(step))
        turns = [Turn(rank, n, step, zoo.LAYOUT, params=lambda: model) for rank in range(n)]
        lockstep([exchange(x.clone(), state, turn) for x, state, turn in zip(xs, states, turns, strict=True)])
    return states


def changed(spec: str, stayed: list[dict], before: int, after: int) -> list[dict]:
    """Return the states of the workers that stayed, and new ones after them; the newest state is rank 0's."""
    exchange = gw.parse(spec)
    states = [*map(clone, stayed), *(exchange.init(zoo.LAYOUT) for _ in range(after - len(stayed)))]
    changes = [
        Change(zoo.LAYOUT, before, len(stayed), after, 0, rank >= len(stayed), torch.device("cpu"))
        for rank in range(after)
    ]
    lockstep([change_(exchange, state, change) for state, change in zip(states, changes, strict=True)])
    return states


def column(states: list[dict], name: str) -> Tensor:
    return torch.stack([flat(state)[name] for state in states])


@pytest.mark.parametrize("spec", MEMORIES)
def test_the_mean_of_a_memory_is_kept(spec: str) -> None:
    """Two workers become five, then two of the five stay: nothing owed is lost except what the others owed."""
    for n, after in ((2, 5), (5, 2)):
        before = worked(spec, n)[: min(n, after)]
        states = changed(spec, before, n, after)
        for name, part in flat(states[0]).items():
            whose, kind = column(before, name) if part.shape == (D,) else None, name.rpartition(".")[2]
            if kind in ("error", "u") or (kind == "v" and "dgc" in spec):
                found, wanted = column(states, name).double().sum(0) / after, whose.double().sum(0) / n
                # Each is rounded to the nearest, which of bfloat16 is 2^-8 of it at most.
                unit = 2.0**-8 if part.dtype == torch.bfloat16 else 0.0
                within = 1e-7 + 1e-5 * wanted.abs() + unit * whose.double().abs().sum(0) / n
                assert bool(((found - wanted).abs() <= within).all())
                assert not column(states, name)[len(before) :].any()
            elif kind == "v":  # a running average: nothing is owed
                assert torch.equal(column(states, name)[: len(before)], whose)
                assert torch.equal(column(states, name)[-1], whose[0] if after > n else whose[-1])
            elif kind in ("h", "said", "last"):
                mean = flat(before[0])[name.replace(kind, "mean_said" if kind == "last" else f"mean_{kind}")]
                assert mean.any() or "fixed" in spec or "randdiana" in spec
                assert all(torch.equal(row, mean) for row in column(states, name))


def test_replicated_state_comes_from_the_newest_worker_whatever_its_shape() -> None:
    for spec in (
        "micro(density=0.05)",
        "deft(density=0.05, repack_every=3)",
        "powersgd(rank=2)",
        "oktopk(density=0.1)",
    ):
        before = worked(spec, 3)
        states = changed(spec, before, 3, 4)
        for name, part in flat(before[0]).items():
            assert all(torch.allclose(flat(state)[name], part) for state in states), (spec, name)


def test_what_an_exchange_does_not_speak_of_becomes_the_mean() -> None:
    class Strange:
        """An exchange with per-worker state and no `change` of its own."""

    states = [{"v": torch.full((D,), float(rank))} for rank in (1, 3, 9)]
    changes = [Change(zoo.LAYOUT, 4, 2, 3, 0, rank == 2, torch.device("cpu")) for rank in range(3)]
    lockstep([change_(Strange(), state, change) for state, change in zip(states, changes, strict=True)])  # type: ignore
    assert all(torch.equal(state["v"], torch.full((D,), 2.0)) for state in states)
