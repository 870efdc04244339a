"""Laws over the whole zoo."""

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
from gradwire.vector import widen


def gradients(n: int, step: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Uneven magnitudes over layers and workers, as gradients have them."""
    x = torch.randn(n, zoo.LAYOUT.d, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    x *= torch.logspace(0, -3, zoo.LAYOUT.d, dtype=torch.float64)
    return x.to(dtype)


def point(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A model, for methods that compress iterates."""
    return torch.linspace(-1, 1, zoo.LAYOUT.d, dtype=torch.float64).to(dtype)


def run(exchange: gw.Exchange, n: int, steps: int, dtype: torch.dtype = torch.float32):
    """Yield (xs, what every worker knows) for a number of steps of n workers in lockstep."""
    states = [exchange.init(zoo.LAYOUT, widen(torch.empty(0, dtype=dtype)).dtype) for _ in range(n)]
    for step in range(steps):
        xs = gradients(n, step, dtype)
        turns = [gw.Turn(rank, n, step, zoo.LAYOUT, seed=7, params=lambda: point(dtype)) for rank in range(n)]
        yield xs, gw.lockstep([exchange(x, s, t) for x, s, t in zip(xs, states, turns, strict=True)])


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("spec", zoo.SPECS)
def test_all_workers_hear_one_mean_and_it_is_the_average_of_their_owns(spec: str, n: int) -> None:
    for _, sent in run(gw.parse(spec), n, steps=4, dtype=torch.float64):
        means = [worker.mean.dense() for worker in sent]
        assert all(torch.equal(mean, means[0]) for mean in means)
        average = torch.stack([worker.own.dense().double() for worker in sent]).mean(0)
        # Values travel in float32 at most and are averaged in float64: what is left is float64's rounding, and for
        # shifted methods that of h + (1 - alpha) m against h_old + m.
        torch.testing.assert_close(means[0].double(), average, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", zoo.SPECS)
def test_the_law_holds_in_the_dtypes_of_training(spec: str, dtype: torch.dtype) -> None:
    # mean() speaks the gradient's own dtype, so its sum of three is rounded in it; all others work in float32.
    exact = "mean" not in spec
    for _, sent in run(gw.parse(spec), 3, steps=3, dtype=dtype):
        average = torch.stack([worker.own.dense().float() for worker in sent]).mean(0)
        eps = torch.finfo(torch.float32 if exact else dtype).eps
        torch.testing.assert_close(sent[0].mean.dense().float(), average, rtol=4 * eps, atol=8 * eps)


@pytest.mark.parametrize("spec", zoo.SPECS)
def test_an_exchange_only_reads_its_vector(spec: str) -> None:
    exchange = gw.parse(spec)
    state = exchange.init(zoo.LAYOUT)
    for step in range(3):
        x = gradients(1, step)[0]
        kept = x.clone()
        (sent,) = gw.lockstep([exchange(x, state, gw.Turn(0, 1, step, zoo.LAYOUT, params=point))])
        said = sent.own.dense().clone()
        x.fill_(float("nan"))  # own and mean share no memory with x
        torch.testing.assert_close(sent.own.dense(), said, rtol=0, atol=0)
        assert kept.isfinite().all()
        assert sent.mean.dense().isfinite().all()


@pytest.mark.parametrize("spec", zoo.SPECS)
def test_the_same_seed_gives_the_same_run_and_another_seed_may_not(spec: str) -> None:
    def means(seed: int) -> torch.Tensor:
        sim = gw.Simulator(spec, zoo.LAYOUT, 3, seed=seed)
        return torch.stack([sim.step(gradients(3, step), point()).mean for step in range(5)])

    assert torch.equal(means(1), means(1))
    if any(word in spec for word in zoo.RANDOM):
        assert not torch.equal(means(1), means(2))


@pytest.mark.parametrize("spec", zoo.SPECS)
@pytest.mark.parametrize("shapes", [[(0,)], [(1,)], [(0,), (3,), (0,)]], ids=["empty", "one", "three"])
def test_tiny_vectors_are_ordinary(spec: str, shapes: list[tuple[int, ...]]) -> None:
    layout = gw.Layout([f"p{i}" for i in range(len(shapes))], shapes)
    sim = gw.Simulator(spec, layout, 2)
    for _ in range(3):
        sent = sim.step(torch.ones(2, layout.d), torch.ones(layout.d))
        torch.testing.assert_close(sent.mean, sent.own.mean(0))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("spec", zoo.SPECS)
def test_zero_in_zero_out(spec: str, n: int) -> None:
    sim = gw.Simulator(spec, zoo.LAYOUT, n)
    for _ in range(3):
        assert not sim.step(torch.zeros(n, zoo.LAYOUT.d), torch.zeros(zoo.LAYOUT.d)).mean.any()


@pytest.mark.parametrize("spec", zoo.SPECS)
def test_repr_is_the_spec(spec: str) -> None:
    exchange = gw.parse(spec)
    assert gw.parse(repr(exchange)) == exchange


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
