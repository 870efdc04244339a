"""DEFT against the paper's arithmetic: golden vectors, and the properties that hold for every input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradwire as gw
from gradwire import kernels
from gradwire.exchange import deft
from gradwire.kernels import reference

SIZES = [6, 1000, 10, 4000, 1, 500, 3]
LAYERS = [
    (0, 6),
    (6, 1006),
    (1006, 1016),
    (1016, 2016),
    (2016, 3016),
    (3016, 4016),
    (4016, 5016),
    (5016, 5017),
    (5017, 5517),
    (5517, 5520),
]
NORMS = [3.0, 2.0, 5.0, 1.5, 1.25, 1.0, 0.75, 4.0, 0.5, 0.1]

GPT = [
    (256, 64),
    (64, 64),
    *[(64,), (64,), (192, 64), (192,), (64, 64), (64,), (256, 64), (256,), (64, 256), (64,)] * 3,
]


def lengths(layers: list[tuple[int, int]]) -> list[int]:
    return [end - start for start, end in layers]


def test_golden_partition() -> None:
    assert deft.partition(SIZES, 4) == LAYERS


def test_golden_remainders_go_to_the_first_pieces() -> None:
    assert lengths(deft.partition([10], 4)) == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("k", "ks", "bins", "common"),
    [
        (55, [6, 10, 10, 8, 6, 5, 4, 1, 4, 1], [[1], [3, 9], [4, 8], [5, 6]], [2, 0, 7]),
        (300, [6, 79, 10, 59, 50, 40, 30, 1, 20, 3], [[1], [3], [4, 8], [5, 6]], [2, 0, 9, 7]),
        (4, [1] * 10, None, None),
    ],
)
def test_golden_budgets_and_bins(k: int, ks: list[int], bins: list[list[int]] | None, common: list[int] | None) -> None:
    sizes = lengths(LAYERS)
    assert deft.assign_k(sizes, NORMS, k) == ks
    if bins is not None:
        plan = deft.pack(sizes, ks, 4)
        assert (plan.bins, plan.common) == (bins, common)


def test_golden_loads() -> None:
    plan = deft.pack(lengths(LAYERS), deft.assign_k(lengths(LAYERS), NORMS, 55), 4)
    assert [round(load, 3) for load in plan.loads] == [3321.928, 3003.0, 3584.963, 4321.928]


sizes_strategy = st.lists(st.integers(0, 300), min_size=1, max_size=12)


@settings(deadline=None)
@given(sizes_strategy, st.integers(1, 9))
def test_layers_tile_the_vector_and_none_is_larger_than_its_share(sizes: list[int], n: int) -> None:
    layers = deft.partition(sizes, n)
    assert [i for start, end in layers for i in range(start, end)] == list(range(sum(sizes)))
    assert all(end > start for start, end in layers)
    assert max(lengths(layers), default=0) <= math.ceil(sum(sizes) / n)


@settings(deadline=None)
@given(sizes_strategy, st.integers(1, 6), st.integers(1, 400), st.data())
def test_every_layer_has_one_place_and_a_budget_it_can_fill(
    sizes: list[int], n: int, k: int, data: st.DataObject
) -> None:
    layers = lengths(deft.partition(sizes, n))
    norms = data.draw(st.lists(st.floats(0, 1e6), min_size=len(layers), max_size=len(layers)))
    ks = deft.assign_k(layers, norms, k)
    assert all(1 <= kx <= size for kx, size in zip(ks, layers, strict=True))
    plan = deft.pack(layers, ks, n)
    assert sorted(itertools.chain(*plan.bins, plan.common)) == list(range(len(layers)))
    assert set(plan.common) == {x for x in range(len(layers)) if ks[x] == layers[x]}
    assert deft.Plan.read(plan.message(), n) == deft.Plan(plan.bins, plan.common, [])
    assert len(plan.message()) == n + len(layers)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=8), st.integers(1, 3))
def test_packing_is_within_grahams_bound(sizes: list[int], n: int) -> None:
    """LPT's makespan is at most 4/3 - 1/(3n) of the best one (Graham 1969), found here by trying all."""
    plan = deft.pack(sizes, [1] * len(sizes), n)
    best = min(
        max(sum(size for size, place in zip(sizes, places, strict=True) if place == bin) for bin in range(n))
        for places in itertools.product(range(n), repeat=len(sizes))
    )
    assert max(plan.loads) <= (4 / 3 - 1 / (3 * n)) * best + 1e-9


def test_all_zero_norms_give_one_element_a_layer() -> None:
    assert deft.assign_k([5, 1, 7], [0.0, 0.0, 0.0], 9) == [1, 1, 1]


def test_no_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one worker, got 0"):
        deft.partition([3], 0)


def layout(shapes: list[tuple[int, ...]]) -> gw.Layout:
    return gw.Layout([f"p{i}" for i in range(len(shapes))], shapes)


def accumulators(n: int, layout: gw.Layout, *, equal: bool, seed: int = 0) -> torch.Tensor:
    """Gradients whose layers differ in scale, as real ones do; the same on all workers or not."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(1 if equal else n, layout.d, generator=rng)
    for values in layout.cut(torch.arange(layout.d)).values():
        x[:, values.flatten()] *= 10 ** torch.rand((), generator=rng)
    return x.expand(n, -1).contiguous()


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_density_stays_at_the_users_value_where_topks_union_grows(n: int) -> None:
    """With equal gradients the union has k entries within 2 %; with different ones Top-k's union grows with n."""
    where = layout(GPT)
    k = int(0.01 * where.d)
    equal = accumulators(n, where, equal=True)
    sent = gw.Simulator("deft(density=0.01)", where, n).step(equal)
    assert abs(int((sent.mean != 0).sum()) / k - 1) <= 0.02
    different = accumulators(n, where, equal=False)
    found = int((gw.Simulator("deft(density=0.01)", where, n).step(different).mean != 0).sum())
    # Every bin is searched by another worker's budgets: about k, not exactly k.
    assert abs(found / k - 1) <= 0.1
    union = int((gw.Simulator("topk(density=0.01)", where, n).step(different).mean != 0).sum())
    assert union >= 0.5 * n * k if n > 1 else union == k


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_supports_of_different_ranks_are_disjoint(n: int) -> None:
    """The union's indices are all distinct, so the workers' shares cannot overlap; and all own the same union."""
    where = layout([(40, 30), (0,), (1,), (700,), (3, 3), (50,)])
    exchange = gw.Deft(0.05)
    for step in range(3):
        xs = accumulators(n, where, equal=False, seed=step)
        sent = gw.lockstep([exchange(xs[r], {}, gw.Turn(r, n, step, where)) for r in range(n)])
        assert isinstance(sent[0].mean, gw.Sparse)
        indices = sent[0].mean.indices
        assert len(indices.unique()) == len(indices)
        assert all(torch.equal(worker.own.indices, indices) for worker in sent)


def test_one_worker_selects_layer_by_layer() -> None:
    """n = 1 is Top-k inside every layer, whole layers included."""
    where = layout([(30,), (2,), (500,), (9,)])
    x = accumulators(1, where, equal=True)[0]
    layers = deft.partition(list(where.sizes), 1)
    ks = deft.assign_k(lengths(layers), kernels.norms(x, layers), int(0.1 * where.d))
    want = torch.cat([reference.top(x[a:b], k) + a for (a, b), k in zip(layers, ks, strict=True)])
    (sent,) = gw.lockstep([gw.Deft(0.1)(x, {}, gw.Turn(0, 1, 0, where))])
    assert sorted(sent.mean.indices.tolist()) == sorted(want.tolist())


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_density_one_is_the_dense_mean_and_leaves_no_residual(n: int) -> None:
    where = layout([(20, 5), (3,), (0,), (41,)])
    sim = gw.Simulator("ef(deft(density=1.0))", where, n)
    for step in range(3):
        xs = accumulators(n, where, equal=False, seed=step)
        torch.testing.assert_close(sim.step(xs).mean, xs.mean(0))
    assert not any(state["error"].any() for state in sim.state)


@pytest.mark.parametrize("n", [2, 3])
def test_bins_and_delegates_rotate_with_period_n(n: int) -> None:
    """What a rank searches at step t + n is what it searched at step t, for equal vectors; at t + 1 another bin."""
    where = layout([(100,)] * 6)
    x = accumulators(n, where, equal=True)

    def search(step: int) -> list[list[int]]:
        asked: list[torch.Tensor] = []
        talks = [gw.Deft(0.05)(x[r], {}, gw.Turn(r, n, step, where)) for r in range(n)]
        answers: list[torch.Tensor | None] = [None] * n
        while True:
            asks = []
            for talk, answer in zip(talks, answers, strict=True):
                try:
                    asks.append(talk.send(answer))
                except StopIteration:
                    return [wire.tolist() for wire in asked]
            match asks[0]:
                case gw.Share(root=root):
                    assert root == step % n
                    answers = [asks[root].values] * n
                case gw.Gather():
                    asked = [ask.wire for ask in asks]
                    answers = [torch.stack(asked)] * n
                case gw.Sum():
                    answers = [sum(ask.values for ask in asks)] * n

    assert search(0) == search(n)
    assert search(0) != search(1)
    assert sorted(map(str, search(0))) == sorted(map(str, search(1)))


def test_more_workers_than_parameters() -> None:
    where = layout([(2,), (1,)])
    xs = torch.tensor([[1.0, 2.0, 3.0]] * 5)
    sent = gw.Simulator("deft(density=0.5)", where, 5).step(xs)
    torch.testing.assert_close(sent.mean, xs[0])  # layers of one element are always whole, hence common


def test_a_message_says_nothing_about_layers_known_to_all() -> None:
    """Bytes by the docs: 4 (n + L) from the delegate, 4 for the count, padded indices, then the union's values."""
    where, n = layout([(300,), (5,), (200,)]), 2
    xs = accumulators(n, where, equal=True)
    sim = gw.Simulator("deft(density=0.1)", where, n)
    sent = sim.step(xs)
    layers = deft.partition(list(where.sizes), n)
    entries = sim.ledger.entries
    assert entries["Share"].bytes == 4 * (n + len(layers))
    assert entries["Sum"].bytes == n * 4 * int((sent.mean != 0).sum())
    assert entries["Gather"].calls == 2 * n


def test_tiny_and_huge_gradients_keep_their_proportions() -> None:
    """The squares leave float32's range; the budgets must not. Powers of two, so that nothing is rounded."""
    where = layout([(100,), (100,), (400,)])
    x = accumulators(1, where, equal=True)
    supports = [
        gw.Simulator("deft(density=0.1)", where, 1).step(x * scale).mean != 0 for scale in (1.0, 2.0**-100, 2.0**100)
    ]
    assert torch.equal(supports[0], supports[1])
    assert torch.equal(supports[0], supports[2])
