"""The guard's flag on the wire: what it adds to a message is a promise (docs/formats.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from story import play

import gradwire as gw
from gradwire import kernels
from gradwire.ask import OUT_OF_STEP, Ask, any_flag_in_sum, describe, tag_offset
from gradwire.exchange.protocol import clone, flatten, stateless
from gradwire.memory import EF, Guard

GOLDEN = Path(__file__).parent / "golden" / "guard.json"
X = torch.tensor([0.5, -3.0, 0.0, 1.0e-3, 7.25, -0.125, 2.0, -1.0e4])


@dataclass(frozen=True)
class Rows:
    """An exchange that starts with an AllToAll, as none of the project's exchanges does."""

    init = stateless

    async def __call__(self, x: torch.Tensor, state: gw.exchange.State, turn: gw.Turn) -> gw.Sent:
        bits = x.view(torch.uint8).view(turn.size, -1)
        await gw.AllToAll(bits)
        return gw.Sent(gw.Dense(x), gw.Dense(x))

    def omega(self, d: int) -> float:
        return 0.0

    def delta(self, d: int) -> float:
        return 1.0


SPECS = {
    "AllGather": "ef(topk(density=0.25))",
    "AllToAll": EF(Rows()),
    "AllReduce": "ef(sharedrandk(density=0.25, unbiased=false))",
    "Broadcast": "ef(cltk(density=0.25))",
    "no rollback": "diana(natural)",
}


def first_message(exchange: object, broken: bool) -> tuple[str, str]:
    """Return kind and bytes of the first ask of worker 0 of 2, for the step's gradients X, or for X with an inf."""
    layout = gw.Layout(["x"], [(len(X),)])
    guard, turn = Guard(gw.parse(exchange) if isinstance(exchange, str) else exchange), gw.Turn(0, 2, 0, layout, seed=3)
    state, gradient = guard.init(layout), X.clone()
    if broken:
        gradient[5] = float("inf")
    x = guard.accumulate([gradient], state, turn)
    talk = guard(gradient if x is None else x, state, turn)
    ask = talk.send(None)
    talk.close()
    return type(ask).__name__, bytes(ask.x.contiguous().view(torch.uint8).flatten().tolist()).hex()


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("case", SPECS)
def test_the_flag_lies_where_the_page_says(case: str, broken: bool) -> None:
    kind, message = first_message(SPECS[case], broken)
    golden = json.loads(GOLDEN.read_text())[f"{case}, {'not finite' if broken else 'finite'}"]
    assert [kind, message] == golden


CARRIERS = [
    gw.AllGather(torch.arange(6, dtype=torch.uint8)),
    gw.AllToAll(torch.zeros(3, 4, dtype=torch.uint8)),
    gw.AllReduce(X),
    gw.AllReduce(X, "max"),
    gw.AllReduce(X.view(2, 4)),
    gw.AllReduce(X.half()),
    gw.AllReduce(torch.tensor([1 << 30, -7], dtype=torch.int32)),
    gw.Broadcast(X[:3].view(torch.uint8)[:11], 1),
    gw.Broadcast(X.view(4, 2).double(), 2),
]
"""What can carry a flag."""


@pytest.mark.parametrize("tag", [0, 77])
@pytest.mark.parametrize("ask", CARRIERS, ids=describe)
def test_a_flag_is_read_back_whoever_set_it(ask: Ask, tag: int) -> None:
    for flags in ((False, False, False), (False, True, False), (True, True, True)):
        carrying = [ask.carrying(flag, tag, 3, rank) for rank, flag in enumerate(flags)]
        for received, plain in zip(carrying[0].answers(carrying), ask.answers([ask] * 3), strict=True):
            answer, anybody = ask.carried(received, tag, 3)
            assert anybody == any(flags)
            assert torch.equal(answer, plain)


def test_what_has_no_room_for_a_flag() -> None:
    """Small integers, whose sum a tag may overflow, and broadcasts whose bytes cost more than another message."""
    assert gw.AllReduce(torch.ones(2, dtype=torch.int8)).carrying(True) is None
    assert gw.Broadcast(torch.zeros((1 << 14) + 1), 0).carrying(True) is None
    assert gw.Broadcast(torch.zeros(1 << 14), 0).carrying(True) is not None


@dataclass(frozen=True)
class Silent:
    """An exchange that asks for nothing."""

    init = stateless

    async def __call__(self, x: torch.Tensor, state: gw.exchange.State, turn: gw.Turn) -> gw.Sent:
        return gw.Sent(gw.Dense(torch.zeros_like(x)), gw.Dense(torch.zeros_like(x)))

    def omega(self, d: int) -> None:
        return None

    def delta(self, d: int) -> float:
        return 0.0


@pytest.mark.parametrize("exchange", [EF(Silent()), Silent(), gw.parse("mean"), gw.parse("diana(natural)")], ids=repr)
def test_all_workers_learn_of_a_value_that_is_not_finite(exchange: gw.Exchange) -> None:
    """This holds for every kind of first ask, and for an exchange that asks for nothing; the plain
    mean passes through.
    """
    layout, guard = gw.Layout(["x"], [(len(X),)]), Guard(exchange)
    for broken in (False, True):
        workers = []
        for rank in range(2):
            turn, state, gradient = gw.Turn(rank, 2, 1, layout, seed=3), guard.init(layout), X.clone()
            if broken and rank:
                gradient[5] = float("inf")
            x = guard.accumulate([gradient], state, turn) or kernels.accumulate(torch.empty(len(X)), None, [gradient])
            workers.append(guard(x, state, turn))
        sent = gw.lockstep(workers)
        assert [worker.finite for worker in sent] == [not broken] * 2
        if broken:
            assert all(float(worker.mean.dense()[5]) == float("inf") for worker in sent)


def test_a_message_of_another_unit_or_step_is_refused() -> None:
    for ask in (gw.AllGather(X.view(torch.uint8)), gw.AllToAll(torch.zeros(3, 4, dtype=torch.uint8)), gw.AllReduce(X)):
        tags = [gw.Turn(0, 3, step, gw.Layout(["x"], [(8,)]), unit=unit).tag for step, unit in ((7, 1), (7, 1), (7, 2))]
        messages = [ask.carrying(False, tag, 3) for tag in tags]
        for answer, tag in zip(messages[0].answers(messages), tags, strict=True):
            with pytest.raises(ValueError, match="at different steps, or at different units"):
                ask.carried(answer, tag, 3)


@pytest.mark.parametrize("spec", ["ef(topk(density=0.25))", "ef(cltk(density=0.25))", "diana(natural)"])
def test_workers_at_different_steps_are_told(spec: str) -> None:
    layout, guard = gw.Layout(["x"], [(len(X),)]), Guard(gw.parse(spec))
    workers = []
    for rank in range(2):
        turn, state = gw.Turn(rank, 2, 4 + rank, layout, seed=3), guard.init(layout)
        x = guard.accumulate([X.clone()], state, turn)
        workers.append(guard(X if x is None else x, state, turn))
    with pytest.raises(ValueError, match="at different steps, or at different units"):
        gw.lockstep(workers)


def test_tags_are_exact_in_a_sum_of_many_workers() -> None:
    for size in (1, 2, 3, 100, 255, 256, 1000, 4000):
        for tag in (0, 1, 127):
            mark = tag_offset(tag, size)
            for flags in (0, 1, size):
                total = torch.full((size,), float(mark)).cumsum(0)[-1:] + flags
                assert any_flag_in_sum(total, mark, size) == (flags > 0)


@pytest.mark.story
def test_ranks_at_different_steps_or_units_are_both_told() -> None:
    heard = play("guards_apart", ranks=2)
    for line in heard:
        for spec, cases in line["result"].items():
            assert cases.pop("alike") == "", spec
            for case, message in cases.items():
                assert message == OUT_OF_STEP, (line["rank"], spec, case)
    assert [len(line["result"]) for line in heard] == [3, 3]


HUGE = ["mean", "ef(topk(density=0.1))", "ef(deft(density=0.1))", "ef(powersgd(rank=1))", "ef(globaltopk(density=0.1))"]
HUGE += ["ef(micro(density=0.1))", "diana(randk(density=0.1))", "diana(natural)", "marina(randk(density=0.1), p=0.5)"]
ALONE = ("deft", "micro")  # they do not run batched


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("spec", HUGE)
def test_a_step_that_overflows_is_skipped(spec: str, batched: bool) -> None:
    if batched and any(name in spec for name in ALONE):
        batched = False
    layout, huge = gw.Layout(["a", "b"], [(40,), (60,)]), torch.linspace(-1, 1, 400).sign().view(4, 100) * 3e38
    simulator = gw.Simulator(f"guard({spec})", layout, 4, batched=batched, check=True)
    skipped = 0
    for _ in range(5):
        before = [clone(state) for state in simulator.state]
        found = simulator.step(huge)
        values = [part for state in simulator.state for *_, part in flatten(state) if part.is_floating_point()]
        assert all(bool(part.isfinite().all()) for part in values)
        if not bool(found.mean.isfinite().all()):
            skipped += 1
            assert torch.equal(found.own, huge)
            assert torch.equal(found.mean, huge.mean(0))
            for state, old in zip(simulator.state, before, strict=bool(before)):
                for (*_, name, values), (*_, kept, theirs) in zip(flatten(state), flatten(old), strict=True):
                    assert name == kept
                    assert torch.equal(values, theirs)
    assert (skipped > 0) == (spec != "mean")
    # What comes later is exchanged as if nothing had been.
    small = torch.ones(4, 100)
    assert bool(simulator.step(small).mean.isfinite().all())


def test_without_a_guard_deft_says_what_has_overflowed() -> None:
    simulator = gw.Simulator("ef(deft(density=0.1))", gw.Layout(["a", "b"], [(40,), (60,)]), 2)
    simulator.step(torch.full((2, 100), 3e38))
    with pytest.raises(ValueError, match="gradient and residual together have overflowed"):
        simulator.step(torch.full((2, 100), 3e38))
