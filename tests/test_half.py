"""Errors kept in bfloat16 are rounded at random, without bias, alike by every loop, and within a stated bound."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import zoo

import gradwire as gw
from gradwire import checkpoint, kernels
from gradwire.exchange.change import Change, change_
from gradwire.exchange.protocol import BEFORE, nest
from gradwire.kernels import compiled, half, reference
from gradwire.transport import lockstep

HALF = "ef(topk(density={}), dtype='bfloat16')"
VALUES = [1.0, 1.003, -1.001953125, 3.14159, -1e-3, 0.99999, 1e-40, 1e30]


def vector(d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("value", VALUES)
def test_rounding_is_to_a_neighbour_and_without_bias(value: float) -> None:
    """E SR(x) = x exactly: the part that is cut off is the probability of rounding up."""
    count = 1 << 18
    x = torch.full((count,), value)
    rounded = kernels.round_(torch.empty(count, dtype=torch.bfloat16), x, 12345).double()
    bits = x[:1].view(torch.int32) & -(1 << 16)
    low, high = bits.view(torch.float32).double(), (bits + (1 << 16)).view(torch.float32).double()
    assert bool(((rounded == low) | (rounded == high)).all())
    up = ((x[:1].double() - low) / (high - low)).item()
    share = (rounded == high).double().mean().item() if up else 0.0
    assert share == pytest.approx(up, abs=5 * math.sqrt(up * (1 - up) / count))
    assert up or bool((rounded == x.double()).all())


def test_neighbours_and_keys_draw_apart() -> None:
    """Two elements, or two keys, round in the same direction as often as not."""
    x = torch.full((1 << 16,), 1.00390625)  # half way
    first, second = (kernels.round_(torch.empty_like(x).bfloat16(), x, key) > x for key in (1, 2))
    for one, other in [(first, second), *((first[lag:], first[:-lag]) for lag in (1, 2, 3, 4, 5))]:
        assert (one == other).double().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(len(one)))


@pytest.mark.parametrize("sizes", [[9001], [63, 0, 9001, 1, 2], [5, 9000, 1, 300], [70_001, 2, 40_000]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("decay", [1.0, 0.95])
def test_one_pass_is_the_sum_rounded(sizes: list[int], dtype: torch.dtype, decay: float) -> None:
    """The bits are equal wherever pieces and layers begin, and the collected facts are of the rounded values."""
    pytest.importorskip("numba")
    d, k, key = sum(sizes), sum(sizes) // 100, 987654321
    pieces = [vector(size, seed).to(dtype) for seed, size in enumerate(sizes)]
    memory = vector(d, 99).bfloat16()
    total = torch.cat(pieces).float() + memory.float() * decay
    wanted = half.round_.reference(torch.empty(d, dtype=torch.bfloat16), total, key)
    layers = list(itertools.pairwise([0, 3, 64, 101, 3000, d - 1, d]))
    x = kernels.zeros((d,), torch.bfloat16, "cpu")
    made = kernels.accumulate(x, memory, pieces, k, decay, layers, key)
    assert made.finite
    assert made.cleared
    assert torch.equal(x.view(torch.int16), wanted.view(torch.int16))
    assert made.norms == pytest.approx(reference.norms(x.float(), layers), rel=1e-12)
    assert made.topk(k) is not None
    for count in (1, k, 3 * k):
        assert torch.equal(kernels.topk(made, count), reference.topk(x.float(), count))
    assert not any(bool(piece.any()) for piece in pieces)
    before = [vector(size, seed).to(dtype) for seed, size in enumerate(sizes)]
    gap = (made.pieces() - torch.cat(before).float()).abs()
    assert bool((gap <= 2.0**-7 * total.abs() + 2.0**-22 * (total.abs() + memory.float().abs())).all())


@pytest.mark.parametrize("worst", [math.inf, -math.inf, math.nan, 3.4e38])
@pytest.mark.parametrize("d", [100, 9001])
def test_what_is_not_finite_is_told(worst: float, d: int) -> None:
    for place in (0, 63, d - 1):
        x, piece = torch.zeros(d, dtype=torch.bfloat16), vector(d)
        piece[place] = worst
        made = kernels.accumulate(x, vector(d, 1).bfloat16(), [piece], key=5)
        # The largest float32 lie beyond the largest bfloat16, and are rounded to inf now and then.
        assert made.finite == bool(x.isfinite().all())
        assert not made.finite or worst == 3.4e38


def test_gradients_too_small_for_bfloat16_arrive() -> None:
    """1e-3 on top of 1 is below half of bfloat16's 2^-7, so a hundred of them rounded to the nearest would be lost."""
    d, steps, small = 20_000, 100, 1e-3
    sim = gw.Simulator(HALF.format(1 / d), gw.Layout(["x"], [(d,)]), 1)
    sim.step(torch.ones(1, d))
    for _ in range(steps):
        sim.step(torch.full((1, d), small))
    held = sim.state[0]["error"].double()
    held = held[held > 0.5]  # but for the few that were sent
    assert len(held) > d - 2 * steps
    # A step's rounding has a variance of p (1 - p) units squared, p = small / unit.
    deviation = math.sqrt(steps * small * 2.0**-7 / len(held))
    assert held.mean().item() == pytest.approx(1 + steps * small, abs=5 * deviation)
    still = torch.ones(1, dtype=torch.bfloat16)
    assert still + small == still


@pytest.mark.parametrize(
    "spec", [HALF.format(0.05), "ef(natural, dtype='bfloat16')", "ef(deft(density=0.05), dtype='bfloat16')"]
)
def test_the_sum_over_steps_is_kept_in_the_mean(spec: str) -> None:
    """Each step rounds within 2^-7 of its values (the law of errors), and over 60 steps the roundings average out."""
    n, steps = 3, 60
    sim, owed, most = gw.Simulator(spec, zoo.LAYOUT, n), torch.zeros(zoo.LAYOUT.d, dtype=torch.float64), 0.0
    for step in range(steps):
        xs = torch.randn(n, zoo.LAYOUT.d, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        owed += xs.sum(0) - n * sim.step(xs).mean
        held = torch.stack([state["error"] for state in sim.state]).double()
        most += float((2.0**-7 * (held.abs() + xs.abs() + 4)).square().sum(0).mean())  # at most, of a variance
    gap = owed - held.sum(0)
    assert gap.abs().max() > 1e-6  # it does round
    assert float(gap.square().mean().sqrt()) < math.sqrt(most)
    assert abs(float(gap.mean())) < 5 * math.sqrt(most / zoo.LAYOUT.d)


def test_values_in_bfloat16_are_then_sent_in_full() -> None:
    """The selected values are bfloat16, so two bytes on the wire lose nothing and leave zeros."""
    layout = zoo.LAYOUT
    whole, short = (
        gw.Simulator(f"ef(topk(density=0.05, values='{values}'), dtype='bfloat16')", layout, 2)
        for values in ("float32", "bfloat16")
    )
    for step in range(5):
        xs = torch.stack([vector(layout.d, 2 * step), vector(layout.d, 2 * step + 1)])
        a, b = whole.step(xs), short.step(xs)
        assert torch.equal(a.mean, b.mean)
        assert torch.equal(whole.state[0]["error"], short.state[0]["error"])
        assert not bool(whole.state[0]["error"][a.own[0] != 0].any())


def test_own_that_names_an_index_twice_is_subtracted_twice() -> None:
    from gradwire.memory import ef
    from gradwire.vector import Sparse

    error = torch.tensor([4.0, 2.0, 1.0]).bfloat16()
    turn = gw.Turn(0, 1, 0, gw.Layout(["x"], [(3,)]))
    ef._subtract(error, Sparse(torch.tensor([0, 2, 0]), torch.tensor([1.0, 1.0, 2.0]), 3), None, turn)
    assert error.tolist() == [1.0, 2.0, 0.0]


def test_both_buffers_take_two_bytes_a_value() -> None:
    layout = gw.Layout(["x"], [(20_000,)])
    exchange = gw.parse(HALF.format(0.01))
    state = exchange.init(layout)
    exchange.accumulate([vector(20_000)], state, gw.Turn(0, 1, 0, layout))
    buffers = [state["error"], nest(state, BEFORE)["error"]]
    assert [buffer.nbytes for buffer in buffers] == [40_000, 40_000]


def test_float64_gradients_are_added_by_themselves() -> None:
    layout = gw.Layout(["x"], [(10,)])
    exchange = gw.parse(HALF.format(0.1))
    turn, state = gw.Turn(0, 1, 0, layout), exchange.init(layout, torch.float64)
    assert exchange.accumulate([vector(10).double()], state, turn) is None
    (sent,) = lockstep([exchange(vector(10).double(), state, turn)])
    assert sent.mean.dense().dtype == torch.float64
    assert state["error"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("dtype='float16'", "dtype must be 'float32' or 'bfloat16', got 'float16'"),
        ("dtype=16", "dtype must be 'float32' or 'bfloat16', got 16"),
        ("dtype='bfloat16', beta=0.5", "neither beta below 1 nor lr_in_memory.*beta=0.5"),
        ("dtype='bfloat16', lr_in_memory=true", "neither beta below 1 nor lr_in_memory.*lr_in_memory=True"),
    ],
)
def test_what_cannot_be_kept_is_refused(options: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gw.parse(f"ef(topk(density=0.1), {options})")


def test_checkpoints_are_of_one_dtype() -> None:
    """Their tensors are bfloat16. A checkpoint of the other dtype is refused, because it names another exchange."""
    layout = gw.Layout(["x"], [(8,)])
    saved = {}
    for options in ("", ", dtype='bfloat16'"):
        exchange = gw.parse(f"ef(topk(density=0.5){options})")
        state = exchange.init(layout)
        saved[options] = checkpoint.pack(checkpoint.by_name(state, layout), repr(exchange), 0, 3, 0, 1)
    plain, narrow = saved.values()
    assert "dtype" not in plain["exchange"]
    assert narrow["memory"]["x"]["error"].dtype == torch.bfloat16
    checkpoint.check(narrow, narrow)
    for mine, theirs in ((plain, narrow), (narrow, plain)):
        with pytest.raises(ValueError, match=r"the checkpoint is of EF.*, this hook runs EF"):
            checkpoint.check(theirs, mine)


def test_merging_rounds_the_mean_once() -> None:
    layout = gw.Layout(["x"], [(1000,)])
    exchange = gw.parse(HALF.format(0.5))
    errors = [vector(1000, rank).bfloat16() for rank in range(3)]
    saved = [
        checkpoint.pack({"x": {"error": error}}, repr(exchange), 0, 3, rank, 3) for rank, error in enumerate(errors)
    ]
    found = gw.merge(saved)["memory"]["x"]["error"]
    mean = torch.stack(errors).double().mean(0)
    assert found.dtype == torch.bfloat16
    assert bool(((found.double() - mean).abs() <= 2.0**-8 * (1 + 2.0**-8) * mean.abs() + 1e-7).all())
    state = checkpoint.read(exchange.init(layout), layout, {"x": {"error": found}})
    assert torch.equal(state["error"], found)


def test_a_residual_grows_with_fewer_workers_and_is_rounded_once() -> None:
    layout = gw.Layout(["x"], [(1000,)])
    exchange = gw.parse(HALF.format(0.5))
    state = {"error": vector(1000).bfloat16(), "inner": {}}
    before = state["error"].double()
    lockstep([change_(exchange, state, Change(layout, 2, 2, 3, 0, False, torch.device("cpu")))])
    assert bool(((state["error"].double() - 1.5 * before).abs() <= 2.0**-8 * 1.5 * before.abs()).all())


def test_a_sum_is_rounded_by_its_turn() -> None:
    """Another step, rank or seed rounds differently; the same turn rounds alike with every loop."""
    layout = gw.Layout(["x"], [(9000,)])
    exchange = gw.parse(HALF.format(0.001))
    turn = gw.Turn(0, 2, 4, layout, seed=7)

    def kept(turn: gw.Turn, long: int = compiled.LONG) -> torch.Tensor:
        state = exchange.init(layout)
        state["error"].copy_(vector(9000))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled, "LONG", long)
            exchange.accumulate([vector(9000, 1)], state, turn)
        return state["error"]

    same = kept(turn)
    assert torch.equal(kept(turn), same)
    assert torch.equal(kept(turn, 1 << 20), same)
    for other in (replace(turn, step=5), replace(turn, rank=1), replace(turn, seed=8)):
        assert not torch.equal(kept(other), same)
