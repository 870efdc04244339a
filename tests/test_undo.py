"""A step is undone bit for bit, and little is kept for that if the message is sparse."""

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
    """It may be over, not begun, or undone twice."""
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


def test_units_use_memory_in_turns() -> None:
    layers = [nn.Linear(300, 300) for _ in range(4)]  # each is too large to be exchanged together with another
    small = [nn.Linear(20, 20) for _ in range(3)]  # these are exchanged side by side
    named = list(nn.Sequential(*layers, *small).named_parameters())
    exchange = gw.parse("diana(randk(density=0.5))")
    units = make_units(named, exchange, 4 * 300 * 301)
    buffers = [unit.buffer for unit in units]
    assert [len(buffer) for buffer in buffers] == [unit.layout.d for unit in units] == [90_300] * 4 + [3 * 420]
    starts = [buffer.data_ptr() for buffer in buffers]
    assert starts[0] == starts[2] == starts[4] != starts[1] == starts[3]

    units = make_units(named[8:], exchange, 4 * 420)
    ends = [(unit.buffer.data_ptr(), unit.buffer.data_ptr() + unit.buffer.nbytes) for unit in units]
    assert [end for _, end in ends[:-1]] == [start for start, _ in ends[1:]], "side by side, in one piece"

    apart = make_units(named, exchange, 4 * 300 * 301, fused=False)
    assert len({unit.buffer.data_ptr() for unit in apart}) == len(apart)
