"""Layouts, vectors, asks and the lockstep that answers them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rank_asks import DTYPES, ask_all, brought, told
from story import play

import gradwire as gw
from gradwire.layout import Turn, bytes_of
from gradwire.transport.rehearsal import rehearse
from gradwire.vector import Vector, widen

LAYOUT = gw.Layout(["a", "b", "c"], [(2, 3), (), (0, 4)])


def test_a_layout_cuts_views() -> None:
    flat = torch.arange(7.0)
    parts = LAYOUT.cut(flat)
    assert (LAYOUT.d, LAYOUT.sizes) == (7, (6, 1, 0))
    assert {name: tuple(part.shape) for name, part in parts.items()} == {"a": (2, 3), "b": (), "c": (0, 4)}
    parts["b"].fill_(9)
    assert flat[6] == 9


def test_layouts_are_values() -> None:
    assert gw.Layout(("a",), [[2]]) == gw.Layout(["a"], ((2,),))
    assert gw.Layout(["a"], [(2,)]).digest != gw.Layout(["a"], [(1, 2)]).digest


@pytest.mark.parametrize(
    ("names", "shapes", "message"),
    [
        (["a"], [], "1 names and 0 shapes"),
        (["a", "a"], [(1,), (2,)], "twice: a"),
        (["a"], [(-1,)], "must not be negative"),
    ],
)
def test_bad_layouts_are_refused(names: list[str], shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gw.Layout(names, shapes)


def test_a_vector_of_another_length_is_not_cut() -> None:
    with pytest.raises(ValueError, match=r"7 elements, got shape \(8,\)"):
        LAYOUT.cut(torch.zeros(8))


BASE = torch.tensor([1.0, 2.0, 3.0, 4.0])
SPARSE = gw.Sparse(torch.tensor([3, 0, 3]), torch.tensor([1.0, 5.0, 2.0]), 4)
VECTORS: list[tuple[Vector, list[float]]] = [
    (gw.Dense(BASE), [1, 2, 3, 4]),
    (SPARSE, [5, 0, 0, 3]),
    (gw.Offset(BASE, SPARSE, 0.5), [3.5, 2, 3, 5.5]),
    (gw.Offset(BASE, SPARSE, 0.0), [1, 2, 3, 4]),
    (gw.Offset(BASE, gw.Dense(BASE), -1.0), [0, 0, 0, 0]),
]


@pytest.mark.parametrize(("vector", "dense"), VECTORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_vectors_know_how_to_add_themselves(vector: Vector, dense: list[float], dtype: torch.dtype) -> None:
    wanted = torch.tensor(dense)
    assert torch.equal(vector.dense(), wanted)
    target = torch.ones(4, dtype=dtype)
    vector.add_to_(target, alpha=-2.0)
    assert torch.equal(target, (1 - 2 * wanted).to(dtype))
    vector.write_to_(target)
    assert torch.equal(target, wanted.to(dtype))


def test_average_and_rows_of_many() -> None:
    many = gw.Sparse(torch.tensor([[0, 1], [1, 2]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 3)
    assert many.average().dense().tolist() == [0.5, 2.5, 2.0]
    assert many.row(1).dense().tolist() == [0, 3, 4]
    assert many.times(2).dense().tolist() == [[2, 4, 0], [0, 6, 8]]


def test_widen_never_narrows() -> None:
    kinds = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}
    assert all(widen(torch.zeros(1, dtype=kind)).dtype == wide for kind, wide in kinds.items())


async def ask(*asks: gw.AllReduce | gw.AllGather | gw.Broadcast | gw.AllToAll) -> list[torch.Tensor]:
    return [await one for one in asks]


def test_lockstep_answers() -> None:
    values = [torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])]
    wires = [torch.tensor([1], dtype=torch.uint8), torch.tensor([2], dtype=torch.uint8)]
    ledger = gw.Ledger(2)
    answers = gw.lockstep(
        [ask(gw.AllReduce(v), gw.AllGather(w), gw.Broadcast(v, 1)) for v, w in zip(values, wires, strict=True)], ledger
    )
    for total, gathered, shared in answers:
        assert (total.tolist(), gathered.tolist(), shared.tolist()) == ([11, 22], [[1], [2]], [10, 20])
    assert {kind: entry.bytes for kind, entry in ledger.entries.items()} == {
        "AllReduce": 16,
        "AllGather": 2,
        "Broadcast": 8,
        "AllToAll": 0,
    }
    assert ledger.bytes == 13
    assert values[0].tolist() == [1, 2]
    answers[0][0].zero_()  # answers are nobody else's memory
    assert answers[1][0].tolist() == [11, 22]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (gw.AllReduce(torch.zeros(3)), "AllReduce(float32[3])"),
        (gw.AllReduce(torch.zeros(2, dtype=torch.float64)), "AllReduce(float64[2])"),
        (gw.AllGather(torch.zeros(2, dtype=torch.uint8)), "AllGather(uint8[2])"),
        (gw.Broadcast(torch.zeros(2), 1), "Broadcast(float32[2], root=1)"),
        (gw.AllToAll(torch.zeros(2, 3, dtype=torch.uint8)), "AllToAll(uint8[2, 3])"),
    ],
)
def test_workers_that_ask_for_different_things_are_named(other: gw.AllReduce, words: str) -> None:
    with pytest.raises(gw.Disagreement) as refused:
        gw.lockstep([ask(gw.AllReduce(torch.zeros(2))), ask(other)])
    assert str(refused.value) == f"worker 0 asked for AllReduce(float32[2]) and worker 1 for {words}"


def test_a_worker_that_ends_early_is_named() -> None:
    with pytest.raises(gw.Disagreement, match=r"worker 1 for nothing, it has ended"):
        gw.lockstep([ask(gw.AllReduce(torch.zeros(2))), ask()])


def test_a_failing_worker_ends_all() -> None:
    async def fail() -> list[torch.Tensor]:
        raise ValueError("no")

    others = ask(gw.AllReduce(torch.zeros(2)))
    with pytest.raises(ValueError, match="no"):
        gw.lockstep([others, fail()])
    assert others.cr_frame is None


async def total(x: torch.Tensor, op: str) -> torch.Tensor:
    return await gw.AllReduce(x, op=op)


TRANSPORTS = {
    "lockstep": lambda xs, op: gw.lockstep([total(x, op) for x in xs]),
    "batched": lambda xs, op: [gw.batched(total(xs, op), len(xs))] * len(xs),
    "rehearsal": lambda xs, op: rehearse([total(x, op) for x in xs], len(xs))[0],
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_answers_keep_their_dtype(transport: str, dtype: str) -> None:
    xs = torch.stack([brought(dtype, rank) for rank in range(2)])
    for op, wanted in (("sum", xs[0] + xs[1]), ("max", torch.maximum(xs[0], xs[1]))):
        for answer in TRANSPORTS[transport](xs, op):
            assert answer.dtype == wanted.dtype
            assert torch.equal(answer, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_worker_rehearsed_alone_hears_its_own_dtype(dtype: str) -> None:
    x = brought(dtype, 0)
    for op, wanted in (("sum", x + x), ("max", x)):
        ((answer,), _) = rehearse([total(x, op)], 2)
        assert answer.dtype == x.dtype
        assert torch.equal(answer, wanted)
        answer.zero_()
        assert torch.equal(x, brought(dtype, 0))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_int8_wraps_around_on_every_transport(transport: str) -> None:
    """100 + 100 is -56, as on the wire."""
    for answer in TRANSPORTS[transport](torch.full((2, 1), 100, dtype=torch.int8), "sum"):
        assert answer.dtype == torch.int8
        assert answer.tolist() == [-56]


def test_an_op_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="AllReduce combines by 'sum' or 'max', got op='min'"):
        gw.AllReduce(torch.zeros(2), op="min")


@pytest.mark.story
def test_a_network_answers_as_lockstep_does_in_every_dtype() -> None:
    """Two gloo ranks ask for every kind, also with int8 that wraps around."""
    lines = play("answers_of_every_dtype", ranks=2)
    for dtype in DTYPES:
        wanted = gw.lockstep([ask_all(brought(dtype, rank)) for rank in range(2)])
        for line, answers in zip(lines, wanted, strict=True):
            assert line["result"][dtype] == told(answers), dtype
    assert lines[0]["result"]["int8"]["sum"] == ["torch.int8", [-56, -66, 5]]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 13])
def test_traffic_of_all_ranks_adds_up(n: int) -> None:
    """A broadcast, by any tree, reaches n - 1 ranks; an all-gather n (n - 1) pairs; a ring sends 2 (n - 1) tensors."""
    share, gather = gw.Broadcast(torch.zeros(25), n - 1), gw.AllGather(torch.zeros(100, dtype=torch.uint8))
    assert sum(share.traffic(rank, n) for rank in range(n)) == 100 * (n - 1)
    assert sum(gather.traffic(rank, n) for rank in range(n)) == 100 * n * (n - 1)
    assert sum(gw.AllReduce(torch.zeros(25)).traffic(rank, n) for rank in range(n)) == pytest.approx(200 * (n - 1))


def test_the_simulator_refuses_at_the_door() -> None:
    sim = gw.Simulator("mean", LAYOUT, 2)
    with pytest.raises(ValueError, match=r"shape \(2, 7\), got \(3, 7\)"):
        sim.step(torch.zeros(3, 7))
    bad = torch.zeros(2, 7)
    bad[1, 3] = float("nan")
    with pytest.raises(ValueError, match="worker 1's vector holds a value that is not finite"):
        sim.step(bad)
    with pytest.raises(ValueError, match="at least one worker, got 0"):
        gw.Simulator("mean", LAYOUT, 0)


def test_a_turn_is_a_value() -> None:
    turn = Turn(0, 2, 5, LAYOUT)
    assert turn.key(shared=False) == replace(turn).key(shared=False)
    assert turn.rng(shared=True).initial_seed() == turn.key(shared=True)


@pytest.mark.parametrize(
    "tensor",
    [torch.arange(6.0).view(2, 3).T, torch.ones(1).as_strided((1, 1), (0, 0)), torch.tensor(2.0), torch.zeros(0)],
    ids=["transposed", "one value of no stride", "scalar", "empty"],
)
def test_octets_are_a_tensors_bytes_in_its_own_order(tensor: torch.Tensor) -> None:
    found = bytes_of(tensor)
    assert found.dtype == torch.uint8
    assert found.tolist() == list(tensor.numpy().tobytes())
