"""Islands: every law with islands of several workers, and their promises beyond the laws."""

from __future__ import annotations

import pytest
import torch
import zoo
from story import play

import gradwire as gw
from gradwire.ask import Among, Axis, among, describe
from gradwire.exchange.parts import check_workers
from gradwire.testing import EXCHANGE_LAWS, check_exchange
from gradwire.transport.rehearsal import rehearse

SPEC = "islands(mean, ef(topk(density=0.1)), size=2)"


@pytest.mark.parametrize("law", EXCHANGE_LAWS)
@pytest.mark.parametrize("spec", zoo.ISLANDS)
def test_islands_obey(spec: str, law: str) -> None:
    check_exchange(spec, laws=[law], workers=zoo.ISLANDS[spec])


def vectors(n: int, step: int = 0, d: int = zoo.LAYOUT.d) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


@pytest.mark.parametrize("between", ["topk(density=0.1)", "ef(deft(density=0.05))", "ef21(topk(density=0.1))"])
def test_an_island_is_one_worker_to_the_others(between: str) -> None:
    """n workers in islands of s give the same as n / s workers with the islands' means."""
    many = gw.Simulator(f"islands(mean, {between}, size=3)", zoo.LAYOUT, 6)
    few = gw.Simulator(between, zoo.LAYOUT, 2)
    for step in range(4):
        xs = vectors(6, step)
        means = (xs.view(2, 3, -1) / 3).sum(1)
        torch.testing.assert_close(many.step(xs).mean, few.step(means).mean, rtol=1e-12, atol=1e-13)


def test_a_byte_leaves_an_island_once() -> None:
    """Between islands of s a worker sends its bytes divided by s; inside an island exchanges are dense."""
    d, n, s = 40_000, 8, 4
    layout = gw.Layout(["x"], [(d,)])
    talk = gw.parse(f"islands(mean, topk(density=0.1), size={s})")
    xs = vectors(n, d=d).float()
    states = [talk.init(layout) for _ in range(n)]
    turns = [gw.Turn(rank, n, 0, layout) for rank in range(n)]
    _, course = rehearse([talk(x, state, turn) for x, state, turn in zip(xs, states, turns, strict=True)], n)
    inside, between = Axis(s), Axis(n // s, s)
    assert [ask.axis for ask in course.asks] == [inside, between, inside]
    message = gw.compress.TopK(0.1).nbytes(d)
    dense, sliced, joined = (ask.traffic for ask in course.asks)
    assert dense == 2 * (s - 1) / s * 4 * d
    assert sliced == (n // s - 1) * -(-message // s)
    assert joined == (s - 1) * (n // s) * -(-message // s)


def test_the_means_over_senders_count_workers() -> None:
    """If one island of two has sent a coordinate, its mean is that of the two members."""
    layout, xs = gw.Layout(["x"], [(10,)]), torch.zeros(4, 10)
    xs[0, 3], xs[1, 3] = 2.0, 4.0
    xs[2, 5] = xs[3, 5] = 8.0
    sim = gw.Simulator("islands(mean, topk(density=0.1), size=2)", layout, 4)
    mean = sim.send(xs)[0].mean
    assert isinstance(mean, gw.Sparse)
    assert mean.dense()[[3, 5]].tolist() == [1.5, 4.0]
    assert mean.over_senders(4).dense()[[3, 5]].tolist() == [3.0, 8.0]


@pytest.mark.parametrize("batched", [False, True])
def test_a_number_of_workers_that_fills_no_islands_is_refused(batched: bool) -> None:
    sim = gw.Simulator(SPEC, zoo.LAYOUT, 3, batched=batched)
    with pytest.raises(ValueError, match="islands of 2 need a number of workers that is a multiple of 2, and this run"):
        sim.step(vectors(3))


def test_what_does_not_fit_is_refused() -> None:
    for spec, words in (
        ("islands(mean, mean, size=0)", "size must be a whole number"),
        ("ef(islands(mean, topk(density=0.1), size=2))", "ef needs a contractive operator"),
    ):
        with pytest.raises(ValueError, match=words):
            gw.parse(spec)
    with pytest.raises(ValueError, match="put the memory between"):
        gw.Simulator("islands(ef(mean), mean, size=2)", zoo.LAYOUT, 2).step(vectors(2))
    # What is between sees islands, and what is inside sees their members.
    check_workers(gw.parse("islands(mean, permk(workers=3), size=2)"), 6)
    check_workers(gw.parse("islands(permk(workers=2), mean, size=2)"), 6)
    with pytest.raises(ValueError, match="among 6 workers, and this run has 3"):
        check_workers(gw.parse("islands(mean, permk(workers=6), size=2)"), 6)


def test_axes_are_a_grid() -> None:
    assert Axis(4).groups(12) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert Axis(3, 4).groups(12) == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert Axis(2, 2).groups(8) == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert Axis(2).inside(Axis(3, 4)) == Axis(2, 4)
    for axis in (Axis(4), Axis(3, 4), Axis(2, 3)):
        for number, ranks in enumerate(axis.groups(12)):
            assert [axis.place(rank) for rank in ranks] == list(range(axis.size))
            assert {axis.number(rank) for rank in ranks} == {number}
            assert all(axis.members(rank) == ranks for rank in ranks)
    with pytest.raises(ValueError, match="at least 1, got 0 and 1"):
        Axis(0)


async def total(x: torch.Tensor, axis: Axis) -> torch.Tensor:
    return await among(gw.AllReduce(x), axis)


@pytest.mark.parametrize("axis", [Axis(2), Axis(3, 2), Axis(6), Axis(1)])
def test_lockstep_batched_and_rehearsal_answer_groups(axis: Axis) -> None:
    xs = vectors(6, d=4)
    wanted = torch.stack([xs[axis.members(rank)].sum(0) for rank in range(6)])
    ledgers = gw.Ledger(6), gw.Ledger(6)
    torch.testing.assert_close(torch.stack(gw.lockstep([total(x, axis) for x in xs], ledgers[0])), wanted)
    rehearsed, course = rehearse([total(x, axis) for x in xs], 6)
    torch.testing.assert_close(torch.stack(rehearsed), wanted)
    assert course.asks[0].axis == axis
    groups = gw.batched(total(xs, axis), 6, ledgers[1])
    torch.testing.assert_close(groups[[axis.number(rank) for rank in range(6)]], wanted)
    for one, other in zip(*(ledger.entries.values() for ledger in ledgers), strict=True):
        assert (one.calls, one.bytes) == (other.calls, other.bytes)
        assert one.traffic == pytest.approx(other.traffic)
    (alone,), _ = rehearse([total(xs[0], axis)], 6)
    torch.testing.assert_close(alone, axis.size * xs[0])


def test_groups_that_do_not_fill_the_world_are_refused() -> None:
    with pytest.raises(ValueError, match="need a multiple of 4 workers, got 6"):
        gw.lockstep([total(x, Axis(2, 2)) for x in vectors(6, d=2)])
    ask = Among(gw.AllReduce(torch.zeros(3)), Axis(2, 4))
    assert describe(ask) == "AllReduce(float32[3]) among 2 workers, 4 apart"
    assert ask.carrying(flag=True) is None


@pytest.mark.story
def test_a_network_answers_groups_as_lockstep_does() -> None:
    """On four gloo ranks: asks of every kind along both axes of a grid, and islands under DDP compared with the
    simulator.
    """
    for line in play("groups_answer", ranks=4):
        assert line["result"] == {"alike": True, "calls": [8, 4, 4, 4]}


@pytest.mark.story
def test_islands_of_ranks_train_as_simulated() -> None:
    """Four gloo ranks train under DDP, with a restart and with messages long enough to be cut in slices."""
    specs = (
        "islands(mean, ef(topk(density=0.6)), size=2)",
        "islands(mean, ef(deft(density=0.1)), size=2)",
        "islands(mean, mean, size=2)",
        "islands(mean, diana(natural), size=4)",
    )
    worst = play("equals_lockstep", *specs, ranks=4, seconds=120)[0]["result"]
    assert worst.keys() == set(specs)
    # A ring adds in another order of ranks.
    assert all(difference <= 1e-6 for difference in worst.values()), worst
