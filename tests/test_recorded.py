"""Recorded rounds equal unrecorded ones bit for bit, and a round that a recording would change is not recorded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pytest
import torch

from gradwire import kernels
from gradwire.ask import AllReduce
from gradwire.compress import Dithering, Identity, Natural, RandK, TopK
from gradwire.exchange import Exchange, State
from gradwire.exchange.protocol import tensor
from gradwire.lab import repeated
from gradwire.lab.convex import methods, problems
from gradwire.lab.convex.descent import Trace, descend
from gradwire.lab.recorded import Recording
from gradwire.layout import AnyStep, Layout, StepDependent, Turn
from gradwire.transport import Ledger, batched
from gradwire.vector import Dense, Sent

RIDGE = problems.Ridge(m=20, d=16, n=4)
ROUNDS = 150


def both(problem: problems.Problem, method: methods.ConvexMethod, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Trace]:
    """Run a method with and without recordings and compare. Returns how many rounds were recorded, and the run."""
    recorded = 0
    run = Recording.__call__

    def counted(self: Recording, steps: range) -> None:
        nonlocal recorded
        recorded += len(steps)
        run(self, steps)

    monkeypatch.setattr(Recording, "__call__", counted)
    monkeypatch.setattr(repeated, "AS_THEY_ARE", 3)
    with_recordings = descend(problem, method, ROUNDS, every=7)
    found = recorded
    monkeypatch.setattr(repeated, "AS_THEY_ARE", 10 * ROUNDS)
    without = descend(problem, method, ROUNDS, every=7)
    assert recorded == found
    assert with_recordings.marks == without.marks  # error, bytes and traffic, to the last bit
    assert len({mark.error for mark in without.marks}) > 10
    return found, without


@pytest.mark.parametrize("values", ["float32", "float64"])
@pytest.mark.parametrize("name", ["dcgd", "fixed", "star", "diana", "ef_bv", "gdci", "vr_gdci"])
def test_a_recorded_round_is_the_round_bit_for_bit(
    name: str, values: Literal["float32", "float64"], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, _ = both(RIDGE, methods.compose(name, RIDGE, RandK(0.25, values)), monkeypatch)
    assert recorded == ROUNDS - 3


@pytest.mark.parametrize("name", ["dcgd", "ef14"])
def test_biased_operators_are_recorded_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = RandK(0.25, "bfloat16", unbiased=False)
    recorded, _ = both(RIDGE, methods.compose(name, RIDGE, operator, step=1e-4), monkeypatch)
    assert recorded == ROUNDS - 3


@pytest.mark.parametrize(
    "problem",
    [problems.Quadratic(n=3, d=5), problems.make("breast_cancer", workers=5), problems.Ridge(m=20, d=16, n=1)],
    ids=["quadratic", "logistic", "alone"],
)
@pytest.mark.parametrize("name", ["gd", "diana"])
def test_problems_of_all_kinds_are_recorded(
    name: str, problem: problems.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, _ = both(problem, methods.compose(name, problem, RandK(0.5)), monkeypatch)
    assert recorded == ROUNDS - 3


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("rand_diana", RandK(0.25)),  # a coin of its own
        ("marina", RandK(0.25)),
        ("diana", Natural()),  # rounds by a key
        ("diana", Dithering(4)),
        ("ef21", TopK(0.25)),  # selects by values
    ],
)
def test_what_depends_on_values_or_on_the_step_is_run_as_it_is(
    name: str, operator: Natural | TopK | RandK | Dithering, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, _ = both(RIDGE, methods.compose(name, RIDGE, operator), monkeypatch)
    assert recorded == 0


def test_long_vectors_and_lockstep_are_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "AS_THEY_ARE", 1)
    monkeypatch.setattr(Recording, "__call__", lambda *_: pytest.fail("recorded"))
    method = methods.compose("diana", RIDGE, RandK(0.25))
    descend(RIDGE, method, 5, transport="lockstep")
    monkeypatch.setattr("gradwire.lab.averager.SHORT", RIDGE.n * RIDGE.d - 1)
    descend(RIDGE, method, 5)


Move = Callable[[torch.Tensor, State, Turn], torch.Tensor]


@dataclass(frozen=True)
class Heavy:
    """A stranger's method in twenty lines: heavy-ball momentum of the mean, kept by every worker."""

    move: Move
    omega = delta = lambda self, d: None

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        return {"ball": torch.zeros(layout.d, dtype=dtype, device=device)}

    async def __call__(self, x: torch.Tensor, state: State, turn: Turn) -> Sent:
        mean = (await AllReduce(x)) / turn.size
        moved = self.move(mean, state, turn)
        return Sent(own=Dense(x + (moved - mean)), mean=Dense(moved))


def heavy(move: Move) -> methods.ConvexMethod:
    plain = methods.compose("gd", RIDGE, Identity())
    return replace(plain, exchange=cast(Exchange, Heavy(move)), step=plain.step / 4)


def ball(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
    return tensor(state, "ball").mul_(0.5).add_(mean).clone()


def by_step(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
    return mean * 2 if turn.step % 40 == 39 else mean


def by_value(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
    return mean if mean.norm() > 1 else mean / 2


def by_comparison(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
    return mean / 2 if bool((mean.abs() < 10).all()) else mean


def by_number(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
    return mean * min(1.0, 1 + float(mean[0]) / 1e6)


def by_numpy(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
    return torch.from_numpy(np.sign(mean.numpy()) * np.abs(mean.numpy()))


def by_replacing(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
    state["ball"] = tensor(state, "ball") * 0.5 + mean
    return tensor(state, "ball").clone()


def by_new_state(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
    state.setdefault("more", {"ball": mean * 0})
    more = cast(State, state["more"])
    return tensor(more, "ball").mul_(0.5).add_(mean).clone()


def by_picking(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
    # A copy, though it looks like a view: of a tensor that stays it must be made again in every round.
    first = tensor(state, "ball")[[0, 1]].sum()
    tensor(state, "ball").mul_(0.5).add_(mean)
    return mean + first * 1e-3


def by_rng(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
    return mean * torch.rand((), generator=turn.rng(shared=True), dtype=mean.dtype)


def test_a_new_method_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, run = both(RIDGE, heavy(ball), monkeypatch)
    assert recorded == ROUNDS - 3
    assert run.marks[-1].error < run.marks[1].error


REFUSED = [by_step, by_value, by_comparison, by_number, by_numpy, by_replacing, by_picking, by_rng]


@pytest.mark.parametrize("move", REFUSED, ids=lambda move: move.__name__)
def test_a_new_method_that_looks_is_run_as_it_is(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    assert both(RIDGE, heavy(move), monkeypatch)[0] == 0


def test_state_that_the_first_round_makes_is_recorded_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert both(RIDGE, heavy(by_new_state), monkeypatch)[0] == ROUNDS - 3


def test_what_differs_between_two_rounds_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in (lambda k: torch.full((16,), float(k), dtype=torch.float64), float):
        counts = itertools.count()

        def counted(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
            return mean + other(next(counts)) * 1e-9  # noqa: B023

        monkeypatch.setattr(Recording, "__call__", lambda *_: pytest.fail("recorded"))
        monkeypatch.setattr(repeated, "AS_THEY_ARE", 3)
        descend(RIDGE, heavy(counted), 20)


def test_a_round_that_is_wrong_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = itertools.count()

    def wrong(mean: torch.Tensor, state: State, turn: Turn) -> torch.Tensor:
        if next(counts) >= 3:
            raise ValueError("no more of this")
        return mean

    monkeypatch.setattr(repeated, "AS_THEY_ARE", 3)
    with pytest.raises(ValueError, match="no more of this"):
        descend(RIDGE, heavy(wrong), 20)


@pytest.mark.parametrize(
    "look",
    [
        lambda turn: turn.step == 0,
        lambda turn: turn.step % 2,
        lambda turn: turn.step in range(3),
        lambda turn: hash(turn),
        lambda turn: turn.tag,
        lambda turn: turn.key(shared=True),
        lambda turn: turn.fork("a").rng(shared=False),
        lambda turn: f"{turn.step}",
        lambda turn: range(turn.step),
        lambda turn: 1 if turn.step else 0,
    ],
)
def test_nothing_can_look_at_any_step(look: Callable[[Turn], object]) -> None:
    step = AnyStep(lambda turn, draws: torch.zeros(1))
    with pytest.raises(StepDependent, match="otherwise than by draws"):
        look(Turn(0, 2, cast(int, step), Layout(["x"], [(3,)])))


def test_keys_of_many_steps_are_the_keys_of_each() -> None:
    turn = Turn(slice(None), 3, 5, Layout(["x"], [(4,)]), 9, ("a", "b'"))
    for shared in (True, False):
        assert turn.keys(range(4), shared=shared) == [replace(turn, step=k).key(shared=shared) for k in range(4)]
    assert len({*turn.keys(range(100), shared=True), *turn.keys(range(100), shared=False)}) == 200


def test_a_ledger_counts_a_round_many_times() -> None:
    async def round_() -> None:
        await AllReduce(torch.zeros(3, 7))

    one, once, often = Ledger(3), Ledger(3), Ledger(3)
    batched(round_(), 3, one)
    once.repeat(one, 50)
    for _ in range(50):
        batched(round_(), 3, often)
    assert once == often
    assert often.bytes == 50 * 28


@pytest.mark.parametrize(("d", "k"), [(2, 1), (80, 8), (80, 40), (5000, 3), (1 << 27, 5)])
def test_supports_by_numpy_are_the_definitions(d: int, k: int) -> None:
    keys = torch.arange(-20, 40).view(3, 20) * 7919
    assert torch.equal(kernels.support(keys, d, k), kernels.support.reference(keys, d, k))


def test_the_page_has_the_measured_ratios() -> None:
    root = Path(__file__).parents[1]
    results = json.loads((root / "benchmarks" / "results" / "lab_speed.json").read_text())
    page = " ".join((root / "docs" / "design.md").read_text().split())
    small, large = (results[name]["ratio"] for name in ("n = 10, d = 80", "n = 1000, d = 10,000"))
    assert f"n = 10 and d = 80 makes {small:.2f} times as many rounds a second" in page
    assert f"which is not recorded, {large:.2f} times as many" in page
