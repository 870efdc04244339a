"""A step is undone bit for bit, and of a sparse message little is kept for it."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import nn

import gradwire as gw
from gradwire.engine import make_units
from gradwire.exchange.protocol import clone, flatten, visible
from gradwire.exchange.undo import LOG, before, keep_, logged, restore_
from gradwire.memory.guard import Guard
from gradwire.testing.runs import gradients, one_step, start, turns

LAYOUT = gw.Layout(["a", "b"], [(40, 5), (7,)])


def equal(a: gw.State, b: gw.State) -> bool:
    pairs = zip(flatten(a), flatten(b), strict=True)
    return all(one[2] == other[2] and torch.equal(one[3], other[3]) for one, other in pairs)


@pytest.mark.parametrize("spec", [spec for spec in zoo.TRAINED if "permk" not in spec])
def test_a_step_is_undone_bit_for_bit(spec: str) -> None:
    """Once it is over, before it has begun, and twice."""
    exchange = Guard(gw.parse(spec))
    states = start(exchange, 2, LAYOUT, torch.float32)

    def step(number: int) -> None:
        xs = gradients(2, LAYOUT, number)
        one_step(exchange, xs, states, turns(2, number, LAYOUT, 3, torch.float32))

    for number in range(3):
        for state in states:
            keep_(state, logged(exchange))
        then = [clone(visible(state)) for state in states]
        step(number)
        assert all(equal(before(state), old) for state, old in zip(states, then, strict=True))
        for state in states:
            restore_(state)
            restore_(state)
        assert all(equal(visible(state), old) for state, old in zip(states, then, strict=True))
        for state in states:
            keep_(state, logged(exchange))
            restore_(state)  # a step that has failed before it wrote anything
        assert all(equal(visible(state), old) for state, old in zip(states, then, strict=True))
        step(number)


@pytest.mark.parametrize("spec", ["diana(randk(density=0.05))", "ef21(topk(density=0.05))"])
def test_of_a_sparse_message_little_is_kept(spec: str) -> None:
    exchange, layout = gw.parse(spec), gw.Layout(["a"], [(1000,)])
    states = start(exchange, 2, layout, torch.float32)
    for state in states:
        keep_(state, logged(exchange))
    one_step(exchange, gradients(2, layout, 0), states, turns(2, 0, layout, 3, torch.float32))
    kept = sum(values.numel() for *_, values in flatten(states[0][LOG]))
    assert 0 < kept <= 2 * (50 + 100)  # indices and values, of this worker's message and of both workers'


def test_units_share_one_buffer() -> None:
    net = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 90))
    exchange = gw.parse("diana(randk(density=0.5))")
    for fused in (True, False):
        units = make_units(list(net.named_parameters()), exchange, 4000, fused=fused)
        assert len(units) > 1
        assert (len({unit.buffer.data_ptr() for unit in units}) == 1) == fused
        assert [len(unit.buffer) for unit in units] == [unit.layout.d for unit in units]
