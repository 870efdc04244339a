"""Units side by side: their messages travel as one, and each hears the answer that it would hear alone."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import pytest
import torch
import zoo
from torch import Tensor

import gradwire as gw
from gradwire.ask import AllGather, AllReduce, AllToAll, Among, Ask, Axis, Broadcast, together
from gradwire.engine import Engine
from gradwire.engine.bundles import SMALL, VectorSpec, Workspace, bundled, run_in_order
from gradwire.memory import Guard
from gradwire.transport import Ledger
from gradwire.transport.ahead import Ahead
from gradwire.transport.members import Members
from gradwire.transport.process import Process

N, STEPS = 4, 3
LAYOUTS = [gw.Layout(["a", "b"], [(30, 4), (20,)]), gw.Layout(["c"], [(70,)]), gw.Layout(["d"], [(5, 41)])]
SPECS = [*zoo.SPECS, *(spec for spec, sizes in zoo.ISLANDS.items() if N in sizes)]


def run(spec: str, *, joined: bool) -> tuple[list[Tensor], Ledger]:
    """Return the means of three units of different lengths, step by step, and the bytes sent."""
    exchange, ledger, rng = Guard(gw.parse(spec)), Ledger(N), torch.Generator().manual_seed(3)
    states = [[exchange.init(layout) for layout in LAYOUTS] for _ in range(N)]
    means: list[Tensor] = []
    for step in range(STEPS):
        xs = [torch.randn(N, layout.d, generator=rng) for layout in LAYOUTS]

        def talk(rank: int, unit: int, step: int = step, xs: list[Tensor] = xs) -> Coroutine[Ask, Tensor, gw.Sent]:
            layout = LAYOUTS[unit]
            params = torch.linspace(-1, 1, layout.d).clone
            turn = gw.Turn(rank, N, step, layout, 7, (), params, 0.1, 1.0, unit)
            return exchange(xs[unit][rank], states[rank][unit], turn)

        if joined:
            sent = gw.lockstep([together([talk(rank, unit) for unit in range(3)]) for rank in range(N)], ledger)[0]
        else:
            sent = [gw.lockstep([talk(rank, unit) for rank in range(N)], ledger)[0] for unit in range(3)]
        means += [each.mean.dense() for each in sent]
    return means, ledger


@pytest.mark.parametrize("spec", SPECS)
def test_each_hears_what_it_would_have_heard_alone(spec: str) -> None:
    (means, sent), (alone, apart) = run(spec, joined=True), run(spec, joined=False)
    assert all(torch.equal(mean, other) for mean, other in zip(means, alone, strict=True))
    assert {kind: entry.bytes for kind, entry in sent.entries.items()} == {
        kind: entry.bytes for kind, entry in apart.entries.items()
    }
    calls, before = (sum(entry.calls for entry in each.entries.values()) for each in (sent, apart))
    assert calls < before / 2, "three units need no more than the one that asks most often"


SOME = torch.arange(12.0)
FAMILIES: list[tuple[Callable[[int], Ask], Callable[[int], Ask]]] = [
    (lambda rank: AllReduce(SOME[:6].view(2, 3) + rank), lambda rank: AllReduce(SOME[6:7] * rank)),
    (lambda rank: AllReduce(SOME[:2] + rank, "max"), lambda rank: AllReduce(SOME[6:9] * -rank, "max")),
    (lambda rank: AllGather(octets(3, rank)), lambda rank: AllGather(octets(0, rank))),
    (lambda rank: Broadcast(SOME[:6].view(2, 3) + rank, 2), lambda rank: Broadcast(SOME[6:7] * rank, 2)),
    (lambda rank: AllToAll(octets(N * 2, rank).view(N, 2)), lambda rank: AllToAll(octets(N, rank).view(N, 1))),
    (
        lambda rank: Among(AllReduce(SOME[:6].view(2, 3) + rank), Axis(2)),
        lambda rank: Among(AllReduce(SOME[6:7] * rank), Axis(2)),
    ),
]


def octets(count: int, rank: int) -> Tensor:
    return torch.arange(count, dtype=torch.uint8) + 10 * rank


@pytest.mark.parametrize("asks", FAMILIES)
def test_asks_of_one_family_are_one_message(asks: tuple[Callable[[int], Ask], Callable[[int], Ask]]) -> None:
    async def one(ask: Ask) -> Tensor:
        return await ask

    ledger = Ledger(N)
    both = gw.lockstep([together([one(ask(rank)) for ask in asks]) for rank in range(N)], ledger)
    for number, ask in enumerate(asks):
        alone = gw.lockstep([one(ask(rank)) for rank in range(N)])
        for rank in range(N):
            assert torch.equal(both[rank][number], alone[rank])
            assert both[rank][number].is_contiguous()
    assert sum(entry.calls for entry in ledger.entries.values()) == N


def test_what_is_no_family_travels_apart() -> None:
    asks = [
        AllReduce(torch.ones(2)), AllReduce(torch.ones(2, dtype=torch.float64)), AllReduce(torch.ones(2), "max"),
        AllGather(octets(2, 0)), AllToAll(octets(N, 0).view(N, 1)), Broadcast(torch.ones(2), 0),
        Broadcast(torch.ones(2), 1), Broadcast(torch.ones(2, dtype=torch.int64), 1),
        Among(AllGather(octets(2, 0)), Axis(2)), Among(AllGather(octets(2, 0)), Axis(2, 2)),
    ]  # fmt: skip
    assert len({ask.family for ask in asks}) == len(asks)


@dataclass
class Steps:
    """Makes talks that ask a number of times, and notes when they begin and end."""

    seen: list[str]

    async def talk(self, name: str, times: int, fails_at: int = -1) -> str:
        try:
            for number in range(times):
                self.seen.append(f"{name}{number}")
                if number == fails_at:
                    raise ZeroDivisionError(name)
                await AllReduce(torch.ones(3))
            return name
        finally:
            self.seen.append(f"{name} ends")


def test_one_that_raises_ends_them_all() -> None:
    steps = Steps([])
    with pytest.raises(ZeroDivisionError, match="b"):
        gw.lockstep([together([steps.talk("a", 3), steps.talk("b", 3, fails_at=1), steps.talk("c", 3)])])
    assert sorted(seen for seen in steps.seen if "ends" in seen) == ["a ends", "b ends", "c ends"]


def test_some_may_end_before_others() -> None:
    steps, ledger = Steps([]), Ledger(1)
    assert gw.lockstep([together([steps.talk("a", 1), steps.talk("b", 0), steps.talk("c", 3)])], ledger) == [
        ["a", "b", "c"]
    ]
    assert ledger.entries["AllReduce"].calls == 3


def test_one_that_begins_ahead_asks_in_its_turn() -> None:
    steps = Steps([])
    ahead = Ahead(steps.talk("a", 2))
    ahead.begin()
    assert steps.seen == ["a0"]
    assert gw.lockstep([ahead]) == ["a"]
    assert steps.seen == ["a0", "a1", "a ends"]

    fails = Ahead(steps.talk("b", 2, fails_at=0))
    fails.begin()  # what is wrong is said when it is this talk's turn
    with pytest.raises(ZeroDivisionError):
        gw.lockstep([fails])
    short = Ahead(steps.talk("c", 0))
    short.begin()
    assert gw.lockstep([short]) == ["c"]


def test_the_next_begins_while_one_waits() -> None:
    steps = Steps([])
    talks = [steps.talk("a", 2), steps.talk("b", 2), steps.talk("c", 1)]
    assert list(run_in_order(Process(Members()), talks)) == ["a", "b", "c"]
    assert steps.seen == ["a0", "b0", "a1", "a ends", "c0", "b1", "b ends", "c ends"]


def test_of_a_unit_that_began_ahead_nothing_stays_when_the_one_before_it_fails() -> None:
    named = [(name, torch.nn.Parameter(torch.zeros(SMALL // 4 + 1))) for name in "ab"]
    engine = Engine(named, gw.parse("ef(topk(density=0.1))"), Members(), unit_bytes=SMALL)
    rng, told = torch.Generator().manual_seed(0), []

    def contribute() -> None:
        gradients = [(id(param), torch.randn(param.shape, generator=rng)) for _, param in named]
        engine.contribute(gradients, told.append, first=True, last=True)

    contribute()
    before = engine.snapshot()
    assert told == [None]
    begun: list[bool] = []

    def begin(ask: Ask) -> Callable[[], Tensor]:
        def lost() -> Tensor:
            begun.append(engine.units[1]._collected is not None)
            raise RuntimeError("rank 1 is gone")

        return lost

    engine.process.begin = begin
    contribute()
    after = engine.snapshot()
    assert begun == [True]
    assert [str(each) for each in told[1:]] == ["rank 1 is gone"]
    assert after["step"] == before["step"] == 1
    for name, parts in before["memory"].items():
        assert parts["error"].any()
        assert torch.equal(after["memory"][name]["error"], parts["error"])
    engine.close()


@dataclass(frozen=True)
class Vector:
    vector: VectorSpec


def vectors(*counts: int, dtype: torch.dtype = torch.float32) -> list[Vector]:
    return [Vector(VectorSpec(gw.Layout([f"{n}"], [(d,)]), dtype, torch.device("cpu"))) for n, d in enumerate(counts)]


def test_small_neighbours_are_a_bundle() -> None:
    most = SMALL // 4
    lengths = [
        [unit.vector.layout.d for unit in bundle]
        for bundle in bundled(vectors(9, 8, most, 1, most - 1, 1, 2 * most, 3))
    ]
    assert lengths == [[9, 8], [most], [1, most - 1], [1], [2 * most], [3]]
    assert bundled(vectors()) == []


def test_bundles_under_way_share_no_memory() -> None:
    most = SMALL // 4
    bundles = bundled([*vectors(10, 20, most, 5, 2 * most, 7)])
    space = Workspace(bundles, bundled(vectors(1)))
    other = space.another()
    for number in range(len(bundles)):
        under_way = [unit for each in bundles[number : number + 2] for unit in each]
        for index, unit in enumerate(under_way):
            space.of(unit.vector.layout).fill_(index)
        for index, unit in enumerate(under_way):
            assert (space.of(unit.vector.layout) == index).all()
            assert space.of(unit.vector.layout).numel() == unit.vector.layout.d
    assert other.of(bundles[0][0].vector.layout).data_ptr() != space.of(bundles[0][0].vector.layout).data_ptr()
