"""Laws over the whole zoo, and what a guard promises of every exchange in it."""

from __future__ import annotations

import pytest
import torch
import zoo

import gradwire as gw
from gradwire import checkpoint
from gradwire.exchange.protocol import BEFORE, State, clone, nest, visible
from gradwire.kernels import compiled
from gradwire.memory import Guard
from gradwire.testing import EXCHANGE_LAWS, BrokenLaw, check_exchange


def gradients(n: int, step: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return magnitudes that differ between layers and workers, as gradients' do."""
    x = torch.randn(n, zoo.LAYOUT.d, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    x *= torch.logspace(0, -3, zoo.LAYOUT.d, dtype=torch.float64)
    return x.to(dtype)


def point(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a model, for methods that compress iterates."""
    return torch.linspace(-1, 1, zoo.LAYOUT.d, dtype=torch.float64).to(dtype)


BATCHED = "a batch is n workers"
"""Checked in test_batched.py, where it is known which specs draw numbers."""

FORGETFUL = [spec for spec in zoo.SPECS if "beta=" in spec or "decay=" in spec]
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
    """A step with an inf on one worker gives the plain mean, and the run continues as if it had not happened."""
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


def accumulates(spec: str) -> bool:
    exchange, layout = Guard(gw.parse(spec)), gw.Layout(["x"], [(8,)])
    turn = gw.Turn(0, 1, 0, layout, params=lambda: torch.zeros(8), lr=1.0)
    return exchange.accumulate([torch.ones(8)], exchange.init(layout), turn) is not None


ACCUMULATE = [spec for spec in zoo.SPECS if not spec.startswith("guard") and "permk" not in spec and accumulates(spec)]


def test_error_feedback_accumulates() -> None:
    assert {"ef(topk(density=0.05))", "ef(deft(density=0.05, overlap=true))"} <= set(ACCUMULATE)
    assert len(ACCUMULATE) > 20


@pytest.mark.parametrize("long", [0, compiled.LONG])
@pytest.mark.parametrize("spec", ACCUMULATE)
def test_what_is_accumulated_is_exchanged_alike_and_rolled_back_whole(
    spec: str, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding the residual in the pass that reads gradients gives the same means and memories; a rollback leaves no
    trace.
    """
    monkeypatch.setattr(compiled, "LONG", long)
    n, layout = 3, zoo.LAYOUT
    exchange = Guard(gw.parse(spec))
    states, plain = ([exchange.init(layout) for _ in range(n)] for _ in range(2))
    for step in range(5):
        xs = gradients(n, step)
        turns = [gw.Turn(rank, n, step, layout, params=point) for rank in range(n)]
        want = gw.lockstep([exchange(x.clone(), s, t) for x, s, t in zip(xs, plain, turns, strict=True)])
        for broken in (True, False):
            given = xs.clone()
            if broken:
                given[1, 5] = float("nan")
            before = [clone(visible(state)) for state in states]
            made = [
                exchange.accumulate(x.split([7, layout.d - 7]), state, turn)
                for state, x, turn in zip(states, given, turns, strict=True)
            ]
            assert [one.finite for one in made] == [True, not broken, True]
            assert all(same(nest(state, BEFORE), was) for state, was in zip(states, before, strict=True))
            got = gw.lockstep([exchange(x, s, t) for x, s, t in zip(made, states, turns, strict=True)])
            assert all(worker.finite != broken for worker in got)
            if broken:
                for state in states:
                    exchange.rollback(state)
                assert all(same(visible(state), was) for state, was in zip(states, before, strict=True))
                assert got[0].mean.dense()[5].isnan()
                found, wanted = got[2].mean.dense()[6:], xs.mean(0)[6:]
                # A residual of bfloat16 is subtracted from a sum that was rounded to 2^-7 of it.
                size = torch.stack([x.abs() + was["error"].abs() for x, was in zip(xs, before, strict=True)])
                rounded = 2.0**-7 * size.mean(0)[6:] if "dtype='bfloat16'" in spec else 0.0
                assert bool(((found - wanted).abs() <= rounded + 1e-5 + 1.3e-6 * wanted.abs()).all())
        for mine, theirs, state, other in zip(got, want, states, plain, strict=True):
            assert torch.equal(mine.mean.dense(), theirs.mean.dense())
            assert torch.equal(mine.own.dense(), theirs.own.dense())
            assert same(visible(state), other)


def same(a: State, b: State) -> bool:
    """Compare every tensor of two nests bit for bit."""
    pairs = zip(checkpoint.flatten(a), checkpoint.flatten(b), strict=True)
    return all(path == other and torch.equal(value, theirs) for (*_, path, value), (*_, other, theirs) in pairs)
