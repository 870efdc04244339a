"""How many collectives a unit costs. The first message carries what the engine's guard adds."""

from __future__ import annotations

import pytest
import torch

import gradwire as gw
from gradwire.ask import Ask
from gradwire.engine.units import Unit, make_units
from gradwire.memory.guard import Guard
from gradwire.transport.ledger import Ledger

SHAPES = [(300, 40), (40,), (64, 64), (64,), (30, 30)]

MOST = {
    "mean": 1,
    "topk(density=0.05)": 1,
    "natural": 1,
    "powersgd(rank=2)": 2,
    "ef(topk(density=0.05))": 1,
    "ef(uniontopk(density=0.05))": 2,
    "ef(globaltopk(density=0.05))": 1,
    "ef(cltk(density=0.05))": 2,
    "ef(cltk(density=0.05), beta=0.3)": 2,
    "ef(powersgd(rank=2))": 2,
    "ef(hardthreshold(level=0.5))": 2,
    "ef(deft(density=0.01))": 3,
    "ef(deft(density=0.05))": 3,
    "ef(deft(density=0.05, exact_k=true))": 3,
    "ef(deft(density=0.05, overlap=true))": 3,
    "ef(deft(density=0.05, k_source='delegate'))": 3,
    "ef(deft(density=0.05, repack_every=99))": 3,
    "ef21(deft(density=0.05))": 3,
    "dgc(deft(density=0.05))": 3,
    "dgc(topk(density=0.05))": 1,
    "diana(natural)": 1,
    "diana(randk(density=0.1))": 1,
    "ef21(topk(density=0.05))": 1,
    "marina(randk(density=0.1), p=0.4)": 1,
    "dasha(randk(density=0.1))": 1,
}
"""Collectives a step of one unit."""


def one_unit(exchange: Guard) -> Unit:
    named = [(f"p{i}", torch.nn.Parameter(torch.zeros(shape))) for i, shape in enumerate(SHAPES)]
    (unit,) = make_units(named, exchange, float("inf"))
    return unit


def gradients(n: int, steps: int) -> list[list[list[torch.Tensor]]]:
    """Return gradients by step and worker: one signal, with tensors of different scale, and half as much noise per
    worker.
    """
    rng = torch.Generator().manual_seed(0)
    signal = [torch.randn(shape, generator=rng) * (i + 1) for i, shape in enumerate(SHAPES)]
    return [
        [
            [part + 0.5 * (i + 1) * torch.randn(part.shape, generator=rng) for i, part in enumerate(signal)]
            for _ in range(n)
        ]
        for _ in range(steps)
    ]


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("spec", MOST)
def test_collectives_a_unit(spec: str, n: int) -> None:
    exchange = Guard(gw.parse(spec))
    units = [one_unit(exchange) for _ in range(n)]
    for step, brought in enumerate(gradients(n, 4)):
        ledger = Ledger(n)
        talks = []
        for rank, (unit, own) in enumerate(zip(units, brought, strict=True)):
            unit.begin()
            for tensor, gradient in zip(unit.tensors, own, strict=True):
                unit.fill(id(tensor), gradient)
            talks.append(unit.average(exchange, gw.Turn(rank, n, step, unit.layout, 1, (), unit.params, 0.1)))
        assert all(sent.finite for sent in gw.lockstep(talks, ledger))
        assert sum(entry.calls for entry in ledger.entries.values()) <= MOST[spec] * n


@pytest.mark.parametrize("n", [2, 3])
def test_who_finds_more_than_there_is_room_for_sends_the_rest(n: int) -> None:
    """DEFT reserves space by the delegate's budgets. A worker with large values elsewhere costs one more collective."""
    layout, exchange = gw.Layout(list("abcdef"), [(1000,)] * 6), gw.exchange.DEFT(0.05)
    noise = torch.randn(n, layout.d, generator=torch.Generator().manual_seed(0))
    asks: list[Ask] = []
    counts: list[int] = []

    async def overheard(rank: int, x: torch.Tensor) -> gw.Sent:
        talk = exchange(x, {}, gw.Turn(rank, n, 0, layout))
        try:
            ask = talk.send(None)
            while True:
                asks.extend([ask] if rank == 0 else [])
                ask = talk.send(await ask)
        except StopIteration as end:
            return end.value

    for loud in range(6):
        xs = noise.clone()
        xs[1, 1000 * loud : 1000 * loud + 1000] *= 100
        asks.clear()
        sent = gw.lockstep([overheard(rank, xs[rank]) for rank in range(n)])
        assert [type(ask) for ask in asks[:2]] == [gw.Broadcast, gw.AllGather]
        assert isinstance(asks[-1], gw.AllReduce)
        counts.append(len(asks))
        found = sent[0].mean
        assert isinstance(found, gw.Sparse)
        assert len(found.indices.unique()) == len(found.indices)
        torch.testing.assert_close(found.values, xs.mean(0)[found.indices])
    # Worker 0 makes the plan. Worker 1 searches a part of the layers, in one of which it may want everything.
    assert sorted(set(counts)) == [3, 4]
