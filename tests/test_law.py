"""Laws over the whole zoo, and what a guard promises of every exchange in it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import zoo

import gradwire as gw
from gradwire import kernels
from gradwire.exchange import tensor
from gradwire.kernels import compiled
from gradwire.memory import Guard
from gradwire.testing import EXCHANGE_LAWS, BrokenLaw, check_exchange


def gradients(n: int, step: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Uneven magnitudes over layers and workers, as gradients have them."""
    x = torch.randn(n, zoo.LAYOUT.d, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    x *= torch.logspace(0, -3, zoo.LAYOUT.d, dtype=torch.float64)
    return x.to(dtype)


def point(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A model, for methods that compress iterates."""
    return torch.linspace(-1, 1, zoo.LAYOUT.d, dtype=torch.float64).to(dtype)


BATCHED = "a batch is n workers"
"""Checked in test_batched.py, where it is known which specs draw numbers."""

FORGETFUL = [spec for spec in zoo.SPECS if "beta=" in spec]
"""Specs whose error is meant to lose something."""


@pytest.mark.parametrize("law", [law for law in EXCHANGE_LAWS if law != BATCHED])
@pytest.mark.parametrize("spec", zoo.SPECS)
def test_every_exchange_obeys(spec: str, law: str) -> None:
    if law == "what is not sent is kept" and spec in FORGETFUL:
        with pytest.raises(BrokenLaw, match="own plus the new error is not x plus the old error"):
            check_exchange(spec, laws=[law])
    else:
        check_exchange(spec, laws=[law])


@pytest.mark.parametrize("spec", [spec for spec in zoo.SPECS if any(word in spec for word in zoo.RANDOM)])
def test_another_seed_gives_another_run(spec: str) -> None:
    def means(seed: int) -> torch.Tensor:
        sim = gw.Simulator(spec, zoo.LAYOUT, 3, seed=seed)
        return torch.stack([sim.step(gradients(3, step), point()).mean for step in range(5)])

    assert not torch.equal(means(1), means(2))


@pytest.mark.parametrize("spec", [s for s in zoo.SPECS if not s.startswith("guard")])
def test_a_broken_step_passes_through_and_leaves_no_trace(spec: str) -> None:
    """A step with an inf on one worker gives the plain mean; after it the run is as if it had not been."""
    n, layout = 3, zoo.LAYOUT
    exchange = Guard(gw.parse(spec))
    states = [exchange.init(layout) for _ in range(n)]
    clean = [exchange.init(layout) for _ in range(n)]
    for step in range(4):
        xs = gradients(n, step)
        turns = [gw.Turn(rank, n, step, layout, params=point) for rank in range(n)]
        broken = xs.clone()
        broken[1, 5] = float("inf")
        sent = gw.lockstep([exchange(x, s, t) for x, s, t in zip(broken, states, turns, strict=True)])
        assert not any(worker.finite for worker in sent)
        assert sent[0].mean.dense()[5] == float("inf")
        torch.testing.assert_close(sent[2].mean.dense()[6:], xs.mean(0)[6:])
        got = gw.lockstep([exchange(x, s, t) for x, s, t in zip(xs, states, turns, strict=True)])
        want = gw.lockstep([exchange(x, s, t) for x, s, t in zip(xs, clean, turns, strict=True)])
        assert all(worker.finite for worker in got)
        assert torch.equal(got[0].mean.dense(), want[0].mean.dense())


TAKERS = [spec for spec in zoo.SPECS if not spec.startswith("guard") and Guard(gw.parse(spec)).takes is not None]


@pytest.mark.parametrize("long", [0, compiled.LONG])
@pytest.mark.parametrize("spec", TAKERS)
def test_what_is_given_with_the_memory_in_it_is_exchanged_alike(
    spec: str, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller adds the memory as it puts x together: same means and memories, and what was there stays as it was."""
    monkeypatch.setattr(compiled, "LONG", long)
    n, layout = 3, zoo.LAYOUT
    exchange = Guard(gw.parse(spec))
    name = exchange.takes
    assert name is not None
    states, plain = ([exchange.init(layout) for _ in range(n)] for _ in range(2))
    rooms = [torch.empty(layout.d) for _ in range(n)]
    wanted = 0
    for step in range(5):
        xs = gradients(n, step)
        turns = [gw.Turn(rank, n, step, layout, params=point) for rank in range(n)]
        want = gw.lockstep([exchange(x.clone(), s, t) for x, s, t in zip(xs, plain, turns, strict=True)])
        for broken in (True, False):
            given = xs.clone()
            if broken:
                given[1, 5] = float("nan")
            seen = [
                kernels.accumulate(room, tensor(state, name), x.split([7, layout.d - 7]), wanted=wanted)
                for room, state, x in zip(rooms, states, given, strict=True)
            ]
            told = [replace(t, given=True, seen=one) for t, one in zip(turns, seen, strict=True)]
            before = [tensor(state, name) for state in states]
            kept = [copy.deepcopy(state) for state in states]
            got = gw.lockstep([exchange(x, s, t) for x, s, t in zip(rooms, states, told, strict=True)])
            assert all(torch.equal(old, tensor(was, name)) for old, was in zip(before, kept, strict=True))
            assert all(worker.finite != broken for worker in got)
            if broken:
                for state, was, old in zip(states, kept, before, strict=True):
                    state.update(was | {name: old})  # as it is the caller's to do
                assert got[0].mean.dense()[5].isnan()
                torch.testing.assert_close(got[2].mean.dense()[6:], xs.mean(0)[6:])
        wanted = seen[0].wanted
        assert all(tensor(state, name) is room for state, room in zip(states, rooms, strict=True))
        rooms = before
        for mine, theirs, state, other in zip(got, want, states, plain, strict=True):
            assert torch.equal(mine.mean.dense(), theirs.mean.dense())
            assert torch.equal(mine.own.dense(), theirs.own.dense())
            assert torch.equal(tensor(state, name), tensor(other, name))
