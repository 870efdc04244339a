"""DEFT against the paper's arithmetic: golden vectors, and the properties that hold for every input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradwire as gw
from gradwire import checkpoint, kernels
from gradwire.exchange import deft, divide_budget
from gradwire.kernels import reference
from gradwire.wire import index

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


def test_bins_even_in_elements_by_hand() -> None:
    """By n_x log2 k_x the layer of 100 weighs most and is alone; by n_x + 20 k_x the layer with the largest k is."""
    sizes, ks = [100, 80, 60, 10], [4, 4, 9, 10]
    even = deft.pack(sizes, ks, 2, by="elements")
    assert (even.bins, even.common, even.loads) == ([[2], [0, 1]], [3], [240.0, 340.0])
    assert deft.pack(sizes, ks, 2).bins == [[0], [2, 1]]


@settings(deadline=None)
@given(st.lists(st.integers(2, 3000), min_size=1, max_size=40), st.integers(1, 9), st.data())
def test_bins_even_in_elements_differ_by_a_layer_at_most(sizes: list[int], n: int, data: st.DataObject) -> None:
    """Before its last layer, which is its lightest, the fullest bin was the least full."""
    ks = [data.draw(st.integers(1, size - 1)) for size in sizes]
    plan = deft.pack(sizes, ks, n, by="elements")
    loads = [sum(sizes[x] + deft.plan.KEPT * ks[x] for x in bin) for bin in plan.bins]
    assert loads == plan.loads
    last = max(sizes[x] + deft.plan.KEPT * ks[x] for x in range(len(sizes)))
    assert max(loads) - min(loads) <= last


sizes_strategy = st.lists(st.integers(0, 300), min_size=1, max_size=12)


@settings(deadline=None)
@given(sizes_strategy, st.integers(1, 9), st.integers(0, 400))
def test_layers_tile_the_vector_and_none_is_larger_than_its_share(sizes: list[int], n: int, merge: int) -> None:
    layers = deft.partition(sizes, n, merge)
    assert [i for start, end in layers for i in range(start, end)] == list(range(sum(sizes)))
    assert all(end > start for start, end in layers)
    assert max(lengths(layers), default=0) <= math.ceil(sum(sizes) / n)


@settings(deadline=None)
@given(sizes_strategy, st.integers(1, 9), st.integers(1, 8))
def test_shares_cut_tensors_where_their_edges_lie_and_nowhere_else(sizes: list[int], n: int, cut: int) -> None:
    layers, total = deft.partition(sizes, n, cut=cut), sum(sizes)
    assert [i for start, end in layers for i in range(start, end)] == list(range(total))
    edges = {total * share // (cut * n) for share in range(cut * n + 1)}
    assert {edge for layer in layers for edge in layer} == {0, *itertools.accumulate(sizes)} | edges if total else True
    assert max(lengths(layers), default=0) <= math.ceil(total / (cut * n))


def test_shares_by_hand() -> None:
    """Multiples of 5520 / 4 = 1380 cut the layers of 1000 and 4000."""
    assert deft.partition(SIZES, 2, cut=2) == [
        *[(0, 6), (6, 1006), (1006, 1016), (1016, 1380), (1380, 2760), (2760, 4140), (4140, 5016), (5016, 5017)],
        *[(5017, 5517), (5517, 5520)],
    ]
    assert deft.partition(SIZES, 2, merge=1100, cut=2)[:2] == [(0, 1016), (1016, 1380)]


def test_bins_even_in_time_by_hand() -> None:
    """By n_x + k_x (17 - 8 k_x / n_x) + 120 (n_x k_x)^(1/3) + 2000 even small searches take some time."""
    sizes, ks = [8000, 1000, 1000, 10], [8, 1, 1, 10]
    even = deft.pack(sizes, ks, 2, by="time")
    assert (even.bins, even.common) == ([[0], [1, 2]], [3])
    small = 1000 + 16.992 + 120 * 10 + 2000
    assert even.loads == pytest.approx([8000 + 8 * (17 - 0.008) + 120 * 40 + 2000, 2 * small])


@settings(deadline=None)
@given(sizes_strategy, st.integers(1, 9), st.integers(0, 400))
def test_merging_joins_whole_neighbours_and_only_those(sizes: list[int], n: int, merge: int) -> None:
    plain, merged = deft.partition(sizes, n), deft.partition(sizes, n, merge)
    assert merge > 0 or merged == plain
    assert {edge for layer in merged for edge in layer} <= {edge for layer in plain for edge in layer}
    cut = [layer for layer in merged if layer not in plain]
    assert all(end - start <= min(merge, sum(sizes) / n) for start, end in cut)
    # No two neighbours are left that could be one, unless they are pieces of one tensor.
    tensors = {start for start, _ in itertools.pairwise([0, *itertools.accumulate(sizes)])}
    for (start, middle), (_, end) in itertools.pairwise(merged):
        pieces = any(size > sum(sizes) / n for size in sizes_between(sizes, start, end))
        assert pieces or middle not in tensors or end - start > min(merge, sum(sizes) // n)


def sizes_between(sizes: list[int], start: int, end: int) -> list[int]:
    """Return the tensors that have elements in [start, end)."""
    edges = [0, *itertools.accumulate(sizes)]
    return [size for size, at in zip(sizes, edges, strict=False) if at < end and at + size > start]


@settings(deadline=None)
@given(sizes_strategy, st.integers(1, 6), st.integers(0, 400), st.booleans(), st.data())
def test_every_layer_has_one_place_and_a_budget_it_can_fill(
    sizes: list[int], n: int, k: int, exact: bool, data: st.DataObject
) -> None:
    layers = lengths(deft.partition(sizes, n))
    norms = data.draw(st.lists(st.floats(0, 1e6) | st.just(1.0), min_size=len(layers), max_size=len(layers)))
    ks = (deft.apportion_k if exact else deft.assign_k)(layers, norms, k)
    assert not exact or sum(ks) == min(k, sum(sizes))
    assert all((0 if exact else 1) <= kx <= size for kx, size in zip(ks, layers, strict=True))
    assert exact or sum(ks) <= max(k + len(layers) - 1, len(layers))
    plan = deft.pack(layers, ks, n)
    assert sorted(itertools.chain(*plan.bins, plan.common)) == list(range(len(layers)))
    assert set(plan.common) == {x for x in range(len(layers)) if ks[x] == layers[x]}
    assert deft.Packing.read(plan.message(), n) == deft.Packing(plan.bins, plan.common, [])
    assert len(plan.message()) == n + len(layers)


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), max_size=12), st.integers(0, 2000), st.data())
def test_exact_budgets_sum_to_k_and_lie_within_one_of_their_share(
    sizes: list[int], k: int, data: st.DataObject
) -> None:
    """Hamilton's quota rule with caps: layers that are not sent whole divide the rest, rounded up or down."""
    norm = st.floats(1e-9, 1e6) | st.sampled_from([0.0, 1.0])
    norms = data.draw(st.lists(norm, min_size=len(sizes), max_size=len(sizes)))
    ks = deft.apportion_k(sizes, norms, k)
    assert sum(ks) == min(k, sum(sizes))
    part = [x for x in range(len(sizes)) if ks[x] < sizes[x]]
    left, total = sum(ks[x] for x in part), math.fsum(norms[x] for x in part)
    assert all(abs(ks[x] - left * norms[x] / total) <= 1 + 1e-9 for x in part if total > 0)
    for x, y in itertools.pairwise(range(len(sizes))):
        if norms[x] == norms[y] and sizes[x] == sizes[y]:
            assert ks[x] - ks[y] in (0, 1)  # of equals the first


@pytest.mark.parametrize(
    ("sizes", "norms", "k", "ks"),
    [
        ([10, 10, 10], [1.0, 1.0, 1.0], 4, [2, 1, 1]),  # equal remainders: the first
        ([10, 10, 10], [1.0, 1.0, 1.0], 2, [1, 1, 0]),  # fewer than layers: some get nothing
        ([10, 2, 10], [1.0, 8.0, 3.0], 10, [2, 2, 6]),  # a cap: the others share what it leaves
        ([10, 2, 10], [0.0, 8.0, 0.0], 7, [3, 2, 2]),  # more than all that has a norm
        ([3, 9], [0.0, 0.0], 4, [1, 3]),  # nothing has one: by size
        ([1, 1], [1e-300, 1e300], 1, [0, 1]),
        ([5, 5], [1.0, 1.0], 0, [0, 0]),
        ([5, 0], [1.0, 1.0], 9, [5, 0]),
        ([], [], 3, []),
    ],
)
def test_exact_budgets_by_hand(sizes: list[int], norms: list[float], k: int, ks: list[int]) -> None:
    assert deft.apportion_k(sizes, norms, k) == ks


def test_layers_without_a_budget_cost_nothing_and_go_round_the_bins() -> None:
    plan = deft.pack([50, 50, 50, 50, 1], [0, 0, 3, 0, 1], 3)
    assert (plan.bins, plan.common) == ([[2, 0, 3], [1], []], [4])
    assert plan.loads == [50 * math.log2(3), 0.0, 0.0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=8), st.integers(1, 3))
def test_packing_is_within_grahams_bound(sizes: list[int], n: int) -> None:
    """LPT's makespan is at most 4/3 - 1/(3n) times the best (Graham 1969), which is found here by
    trying all packings.
    """
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
    """Return gradients whose layers differ in scale, as real ones do; the same on all workers or not."""
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
    """The union's indices are all distinct, so the workers' parts cannot overlap, and all own the same union."""
    where = layout([(40, 30), (0,), (1,), (700,), (3, 3), (50,)])
    exchange = gw.exchange.DEFT(0.05)
    for step in range(3):
        xs = accumulators(n, where, equal=False, seed=step)
        sent = gw.lockstep([exchange(xs[r], {}, gw.Turn(r, n, step, where)) for r in range(n)])
        assert isinstance(sent[0].mean, gw.Sparse)
        indices = sent[0].mean.indices
        assert len(indices.unique()) == len(indices)
        assert all(torch.equal(worker.own.indices, indices) for worker in sent)


def test_one_worker_selects_layer_by_layer() -> None:
    """With n = 1 it is Top-k inside every layer, including layers sent whole."""
    where = layout([(30,), (2,), (500,), (9,)])
    x = accumulators(1, where, equal=True)[0]
    layers = deft.partition(list(where.sizes), 1)
    ks = deft.assign_k(lengths(layers), kernels.norms(x, layers), int(0.1 * where.d))
    want = torch.cat([reference.topk(x[a:b], k) + a for (a, b), k in zip(layers, ks, strict=True)])
    (sent,) = gw.lockstep([gw.exchange.DEFT(0.1)(x, {}, gw.Turn(0, 1, 0, where))])
    assert sorted(sent.mean.indices.tolist()) == sorted(want.tolist())


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_density_one_is_the_dense_mean_and_leaves_no_residual(n: int) -> None:
    where = layout([(20, 5), (3,), (0,), (41,)])
    sim = gw.Simulator("ef(deft(density=1.0))", where, n)
    for step in range(3):
        xs = accumulators(n, where, equal=False, seed=step)
        torch.testing.assert_close(sim.step(xs).mean, xs.mean(0))
    assert not any(state["error"].any() for state in sim.state)


def overhear(
    exchange: gw.exchange.DEFT, xs: torch.Tensor, states: list[gw.State], step: int, where: gw.Layout
) -> list[list[gw.AllReduce | gw.AllGather | gw.Broadcast]]:
    """Run one step of len(xs) workers, and return what they ask, round by round and by rank."""
    n = len(xs)
    talks = [exchange(xs[r], states[r], gw.Turn(r, n, step, where)) for r in range(n)]
    answers: list[torch.Tensor | None] = [None] * n
    rounds: list[list[gw.AllReduce | gw.AllGather | gw.Broadcast]] = []
    while True:
        asks = []
        for talk, answer in zip(talks, answers, strict=True):
            try:
                asks.append(talk.send(answer))
            except StopIteration:
                continue
        if not asks:
            return rounds
        rounds.append(asks)
        match asks[0]:
            case gw.Broadcast(root=root):
                answers = [asks[root].x] * n
            case gw.AllGather():
                answers = [torch.stack([ask.x for ask in asks])] * n
            case gw.AllReduce():
                answers = [sum(ask.x for ask in asks)] * n


@pytest.mark.parametrize("n", [2, 3])
def test_bins_and_delegates_rotate_with_period_n(n: int) -> None:
    """For equal vectors a rank searches the same bin at steps t and t + n, and another one at t + 1."""
    where = layout([(100,)] * 6)
    x = accumulators(n, where, equal=True)

    def search(step: int) -> list[list[int]]:
        plans, indices, _ = overhear(gw.exchange.DEFT(0.05), x, [{}] * n, step, where)
        assert {ask.root for ask in plans} == {step % n}
        return [ask.x.tolist() for ask in indices]

    assert search(0) == search(n)
    assert search(0) != search(1)
    assert sorted(map(str, search(0))) == sorted(map(str, search(1)))


def test_more_workers_than_parameters() -> None:
    where = layout([(2,), (1,)])
    xs = torch.tensor([[1.0, 2.0, 3.0]] * 5)
    sent = gw.Simulator("deft(density=0.5)", where, 5).step(xs)
    torch.testing.assert_close(sent.mean, xs[0])  # layers of one element are always whole, hence common


def test_a_message_says_nothing_about_layers_known_to_all() -> None:
    """The bytes are as documented: 4 (n + L + 1) from the delegate, 4 for the count, padded indices, and the union's
    values.
    """
    where, n = layout([(300,), (5,), (200,)]), 2
    xs = accumulators(n, where, equal=True)
    sim = gw.Simulator("deft(density=0.1)", where, n)
    sent = sim.step(xs)
    layers = deft.partition(list(where.sizes), n)
    entries = sim.ledger.entries
    assert entries["Broadcast"].bytes == 4 * (n + len(layers) + 1)
    assert entries["AllReduce"].bytes == n * 4 * int((sent.mean != 0).sum())
    assert entries["AllGather"].calls == n
    sizes = lengths(layers)
    ks = deft.assign_k(sizes, kernels.norms(xs[0], layers), 50)
    bins = deft.pack(sizes, ks, n).bins
    room = max(index.nbytes(sum(sizes[i] for i in b), math.ceil(1.25 * sum(ks[i] for i in b))) for b in bins)
    assert entries["AllGather"].bytes == n * (4 + room)


def test_tiny_and_huge_gradients_keep_their_proportions() -> None:
    """Squares leave float32's range, budgets must not change. Powers of two, so nothing is rounded."""
    where = layout([(100,), (100,), (400,)])
    x = accumulators(1, where, equal=True)
    supports = [
        gw.Simulator("deft(density=0.1)", where, 1).step(x * scale).mean != 0 for scale in (1.0, 2.0**-100, 2.0**100)
    ]
    assert torch.equal(supports[0], supports[1])
    assert torch.equal(supports[0], supports[2])


# ---- options

EVERYTHING = "deft(density=0.05, k_source='delegate', exact_k=true, repack_every=3, merge=64)"
SHAPES: list[tuple[int, ...]] = [(40, 30), (0,), (1,), (700,), (3, 3), (50,), (9,), (9,), (20, 20)]


def union(sent: list[gw.Sent]) -> torch.Tensor:
    """Return the indices that a step has sent, the same on all workers and all distinct."""
    mean = sent[0].mean
    assert isinstance(mean, gw.Sparse)
    for worker in sent:
        assert isinstance(worker.own, gw.Sparse)
        assert torch.equal(worker.own.indices, mean.indices)
    assert len(mean.indices.unique()) == len(mean.indices)
    return mean.indices


options = st.builds(
    gw.exchange.DEFT,
    density=st.floats(0.001, 1.0),
    k_source=st.sampled_from(["local", "delegate"]),
    exact_k=st.booleans(),
    repack_every=st.integers(1, 4),
    merge=st.sampled_from([0, 5, 100]),
    pack_by=st.sampled_from(["cost", "elements"]),
)


@settings(deadline=None, max_examples=80)
@given(options, st.lists(st.integers(0, 60), max_size=8), st.integers(1, 5), st.integers(0, 2**31), st.booleans())
def test_all_options_together(exchange: gw.exchange.DEFT, sizes: list[int], n: int, seed: int, silent: bool) -> None:
    """The law, disjoint selections, conservation and counts hold while layers grow and shrink between the steps."""
    where = layout([(size,) for size in sizes])
    sim, rng = gw.Simulator(gw.memory.EF(exchange), where, n), torch.Generator().manual_seed(seed)
    errors, k = torch.zeros(n, where.d, dtype=torch.float64), max(1, int(exchange.density * where.d))
    for _ in range(5):
        scales = torch.cat([10 ** (4 * torch.rand(1, generator=rng)).expand(size) for size in sizes] + [torch.zeros(0)])
        xs = torch.randn(n, where.d, generator=rng, dtype=torch.float64) * scales
        xs[0] *= not silent
        sent = sim.send(xs)
        count, mean = len(union(sent)), sent[0].mean.dense()
        own = torch.stack([worker.own.dense() for worker in sent])
        accumulators, errors = xs + errors, torch.stack([state["error"] for state in sim.state])
        torch.testing.assert_close(own.mean(0), mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(accumulators, own + errors, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(accumulators.sum(0), n * mean + errors.sum(0), rtol=1e-9, atol=1e-9)
        if exchange.exact_k and exchange.k_source == "delegate":
            assert count == min(k, where.d)
        if exchange.density == 1.0:
            assert count == where.d


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("source", ["local", "delegate"])
def test_identical_accumulators_give_the_sum_of_the_budgets_at_every_step(source: str, exact: bool, n: int) -> None:
    where = layout(SHAPES)
    xs = accumulators(n, where, equal=True)
    layers = deft.partition(where.sizes, n)
    budgets = deft.apportion_k if exact else deft.assign_k
    k = int(0.05 * where.d)
    total = sum(budgets(lengths(layers), kernels.norms(xs[0], layers), k))
    assert not exact or total == k
    sim = gw.Simulator(gw.exchange.DEFT(0.05, source, exact), where, n)
    assert [len(union(sim.send(xs))) for _ in range(2 * n + 1)] == [total] * (2 * n + 1)


@pytest.mark.parametrize("n", [2, 5])
def test_a_delegates_budgets_make_the_count_exact_and_save_an_ask(n: int) -> None:
    """The count is the sum of the delegate's budgets although all gradients differ; one int32 message has n + 2 L
    numbers.
    """
    where = layout(SHAPES)
    layers = deft.partition(where.sizes, n)
    exchange = gw.exchange.DEFT(0.05, k_source="delegate")
    for step in range(2 * n):
        xs = accumulators(n, where, equal=False, seed=step)
        delegate = xs[step % n]
        ks = deft.assign_k(lengths(layers), kernels.norms(delegate, layers), int(0.05 * where.d))
        plans, indices, values = overhear(exchange, xs, [{}] * n, step, where)
        assert [type(asks[0]) for asks in (plans, indices, values)] == [gw.Broadcast, gw.AllGather, gw.AllReduce]
        assert plans[0].x.dtype == torch.int32
        assert plans[0].x.shape == (n + 2 * len(layers),)
        assert {len(ask.x) for ask in values} == {sum(ks)}


def test_what_has_no_budget_is_searched_by_nobody() -> None:
    """Layers without gradient get no budget, and indices are relative to the only layer that is searched."""
    where, n = layout([(64,), (64,), (64,)]), 2
    xs = torch.zeros(n, where.d)
    xs[:, 128:] = torch.randn(n, 64, generator=torch.Generator().manual_seed(0))
    k = int(0.05 * where.d)
    sent = gw.Simulator("deft(density=0.05, k_source='delegate', exact_k=true)", where, n).send(xs)
    assert len(union(sent)) == k
    _, indices, _ = overhear(gw.exchange.DEFT(0.05, "delegate", exact_k=True), xs, [{}] * n, 0, where)
    assert {len(ask.x) for ask in indices} == {index.nbytes(64, k)}
    assert int(union(sent).min()) >= 128
    # Every layer gets one by default.
    indices = union(gw.Simulator("deft(density=0.05, k_source='delegate')", where, n).send(xs))
    assert len(indices) == k + 2


@pytest.mark.parametrize("source", ["local", "delegate"])
def test_a_plan_serves_for_its_steps_and_the_delegates_take_turns(source: str) -> None:
    """With repack_every = n each of the n workers packs once in n * n steps; t mod n alone would
    always choose rank 0.
    """
    where, n = layout(SHAPES), 3
    exchange = gw.exchange.DEFT(0.05, source, repack_every=n)
    states = [exchange.init(where) for _ in range(n)]
    roots = []
    for step in range(n * n):
        asks = overhear(exchange, accumulators(n, where, equal=False, seed=step), states, step, where)
        roots.append([ask[0].root for ask in asks if isinstance(ask[0], gw.Broadcast)])
    assert roots == [[0], [], [], [1], [], [], [2], [], []]
    assert all(torch.equal(state["plan"], states[0]["plan"]) for state in states)


def test_a_plan_that_serves_one_step_leaves_no_state() -> None:
    assert gw.exchange.DEFT(0.1, "delegate", exact_k=True, merge=9).init(layout(SHAPES)) == {}


def test_budgets_that_grow_old_stay_the_delegates() -> None:
    """Between two plans growing layers get no more; with the next plan they do."""
    where, n = layout([(200,), (200,)]), 2
    sim = gw.Simulator("deft(density=0.1, k_source='delegate', exact_k=true, repack_every=2)", where, n)
    before = accumulators(n, where, equal=True)
    after = before.clone()
    after[:, 200:] *= 1000
    first = [int((union(sim.send(xs)) < 200).sum()) for xs in (before, after, after)]
    assert first[0] == first[1]
    assert first[2] < first[1]


@pytest.mark.parametrize(
    "spec", ["deft(density=0.2, repack_every=9)", "deft(density=0.2, exact_k=true, repack_every=9)"]
)
@pytest.mark.parametrize("swells", [False, True])
def test_a_layer_may_become_whole_or_cease_to_be_while_its_plan_serves(spec: str, swells: bool) -> None:
    where, n = layout([(10,), (300,), (300,)]), 3
    loud = accumulators(n, where, equal=False)
    loud[:, :10] *= 1e6
    quiet = loud.clone()
    quiet[:, :10] *= 1e-12
    sim = gw.Simulator(spec, where, n)
    whole = []
    for xs in (quiet, loud, quiet) if swells else (loud, quiet, loud):
        sent = sim.send(xs)
        torch.testing.assert_close(torch.stack([w.own.dense() for w in sent]).mean(0), sent[0].mean.dense())
        whole.append(int((union(sent) < 10).sum()) == 10)
    # What was common when the plan was made stays so; a layer in a bin is searched by one's own budget, all of it.
    assert whole == ([False, True, False] if swells else [True, True, True])


@pytest.mark.parametrize("n", [1, 3, 5])
def test_with_another_number_of_workers_the_layers_are_cut_anew_and_the_plan_made_anew(n: int) -> None:
    """A plan of four workers from a merged checkpoint does not fit n workers, so a new one is shared
    before its turn.
    """
    where = layout(SHAPES)
    assert deft.partition(where.sizes, n) != deft.partition(where.sizes, 4)
    four, sim = gw.Simulator(EVERYTHING, where, 4), gw.Simulator(EVERYTHING, where, n)
    four.step(accumulators(4, where, equal=False))
    sim.start(torch.zeros(n, where.d))
    for state in sim.state:
        state["plan"] = four.state[0]["plan"].clone()
    sim.steps = 1
    for step in (1, 2):
        count = len(union(sim.send(accumulators(n, where, equal=False, seed=step))))
        assert count == int(0.05 * where.d)
        assert sim.ledger.entries["Broadcast"].bytes == 4 * (n + 2 * len(deft.partition(where.sizes, n, 64)))


def test_a_plan_of_another_layout_is_none_although_it_is_as_long() -> None:
    here, there = layout([(100,), (30,)]), layout([(30,), (100,)])
    exchange = gw.exchange.DEFT(0.1, "delegate", repack_every=10)
    (state,) = states = [exchange.init(here)]
    gw.lockstep([exchange(accumulators(1, here, equal=True)[0], state, gw.Turn(0, 1, 0, here))])
    length = state["plan"].shape
    asks = overhear(exchange, accumulators(1, there, equal=True), states, 1, there)
    assert isinstance(asks[0][0], gw.Broadcast)
    assert state["plan"].shape == length


@pytest.mark.parametrize("place", [2, 5, -1])
@pytest.mark.parametrize("number", [-1.0, 1e9])
@pytest.mark.parametrize("source", ["local", "delegate"])
def test_a_plan_that_cannot_be_is_made_anew(source: str, number: float, place: int) -> None:
    where = layout([(300,), (5,), (200,)])
    xs = accumulators(2, where, equal=False)
    sim = gw.Simulator(f"deft(density=0.1, k_source={source!r}, repack_every=10)", where, 2)
    first = sim.step(xs).mean
    for state in sim.state:
        state["plan"][0, place] = number
    sim.step(xs)
    assert sim.step(xs).mean.count_nonzero() == pytest.approx(int(first.count_nonzero()), abs=10)
    assert float(sim.state[0]["plan"][0, place]) not in (-1.0, 1e9)


@pytest.mark.parametrize("source", ["local", "delegate"])
def test_a_plan_survives_a_checkpoint(source: str) -> None:
    """It is bit-equal with the same workers, also between two plans, and is not shared again."""
    where, n = layout(SHAPES), 3
    spec = f"ef(deft(density=0.05, k_source='{source}', repack_every=4))"
    sim, other = gw.Simulator(spec, where, n), gw.Simulator(spec, where, n)
    for step in range(2):
        sim.step(accumulators(n, where, equal=False, seed=step))
    other.start(torch.zeros(n, where.d))
    for ours, theirs in zip(other.state, sim.state, strict=True):
        ours.update(checkpoint.read(ours, where, checkpoint.by_name(theirs, where)))
    other.steps = sim.steps
    for step in range(2, 6):
        xs = accumulators(n, where, equal=False, seed=step)
        assert torch.equal(sim.step(xs).own, other.step(xs).own)
        assert (other.ledger.entries["Broadcast"].calls > 0) == (step >= 4)


def test_merged_checkpoints_keep_the_plan() -> None:
    """The mean over the ranks is the plan itself: whole numbers, exact in float64."""
    where, n = layout(SHAPES), 5
    sim = gw.Simulator(EVERYTHING, where, n)
    sim.step(accumulators(n, where, equal=False))
    saved = [checkpoint.pack(checkpoint.by_name(s, where), "deft", 0, 1, r, n) for r, s in enumerate(sim.state)]
    state = gw.parse(EVERYTHING).init(where)
    state.update(checkpoint.read(state, where, gw.merge(saved)["memory"]))
    assert torch.equal(state["plan"], sim.state[0]["plan"])


# ---- what is odd

ODD = ["deft(density=0.05)", "deft(density=0.05, exact_k=true)", "deft(density=0.05, k_source='delegate')", EVERYTHING]


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("spec", ODD)
@pytest.mark.parametrize("shapes", [[()], [(2,), (1,)], [(1,), (0,), (1,), (1,)], [(0,)]], ids=str)
def test_few_parameters(shapes: list[tuple[int, ...]], spec: str, n: int) -> None:
    """One in all, or fewer than workers. With k = int(0.05 d) = 0 one a layer is sent by default, one
    in all if exact.
    """
    where = layout(shapes)
    sim = gw.Simulator(spec, where, n)
    for step in range(4):
        count = len(union(sim.send(accumulators(n, where, equal=True, seed=step))))
        if "exact_k" in spec:
            assert count == min(1, where.d)
        else:
            assert count == len(deft.partition(where.sizes, n))


@pytest.mark.parametrize("n", [1, 4])
def test_fewer_than_layers(n: int) -> None:
    """With 100 layers of 10 and k = 5 the default sends one a layer, so L - k too many; exact budgets send five."""
    where = layout([(10,)] * 100)
    xs = accumulators(n, where, equal=False)
    for exact, count in ((False, 100), (True, 5)):
        sent = gw.Simulator(gw.exchange.DEFT(0.005, "delegate", exact), where, n).send(xs)
        assert len(union(sent)) == count


@pytest.mark.parametrize("spec", ODD)
@pytest.mark.parametrize("silent", [[0], [0, 2], [0, 1, 2]])
def test_workers_without_gradient(silent: list[int], spec: str) -> None:
    """This includes the delegate. If no worker has a gradient, zeros are sent."""
    where, n = layout(SHAPES), 3
    sim, k = gw.Simulator(spec, where, n), int(0.05 * where.d)
    for step in range(n):
        xs = accumulators(n, where, equal=False, seed=step)
        xs[silent] = 0.0
        sent = sim.send(xs)
        assert len(union(sent)) == k or spec != EVERYTHING
        torch.testing.assert_close(sent[0].mean.dense()[union(sent)], xs.mean(0)[union(sent)])
        assert bool(sent[0].mean.dense().any()) == (len(silent) < n)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_guarded_step_leaves_error_and_plan_as_they_are(value: float) -> None:
    """The next step makes the plan that the failed step would have made, although its turn is over."""
    where, n = layout(SHAPES), 3
    sim = gw.Simulator(f"guard(ef({EVERYTHING}))", where, n)
    for step in range(3):
        sim.step(accumulators(n, where, equal=False, seed=step))
    error, plan = sim.state[1]["error"].clone(), sim.state[1]["inner"]["plan"].clone()
    xs = accumulators(n, where, equal=False, seed=3)
    xs[2, 5] = value
    assert not any(worker.finite for worker in sim.send(xs))
    assert torch.equal(sim.state[1]["error"], error)
    assert torch.equal(sim.state[1]["inner"]["plan"], plan)
    shared = sim.ledger.entries["Broadcast"].bytes
    assert all(worker.finite for worker in sim.send(accumulators(n, where, equal=False, seed=4)))
    assert sim.ledger.entries["Broadcast"].bytes == 2 * shared


@pytest.mark.parametrize("spec", ODD)
@pytest.mark.parametrize("power", [-1060, -600, 600, 1000])
def test_float64_of_any_size_keeps_its_proportions(power: int, spec: str) -> None:
    """Squares leave float64's range too. Multiples of 2^-10, so that not even tiny values are rounded."""
    where = layout([(100,), (100,), (400,)])
    x = (accumulators(2, where, equal=False).double() * 1024).round() / 1024
    plain, scaled = (union(gw.Simulator(spec, where, 2).send(x * scale)) for scale in (1.0, 2.0**power))
    assert torch.equal(plain, scaled)


def test_float32_at_the_end_of_its_range() -> None:
    where = layout([(100,), (100,)])
    sent = gw.Simulator("deft(density=0.1)", where, 1).send(torch.full((1, 200), 3e38))
    assert len(union(sent)) == 20


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"k_source": "leader"}, "k_source must be 'local' or 'delegate', got 'leader'"),
        ({"k_source": None}, "k_source must be 'local' or 'delegate', got None"),
        ({"pack_by": "size"}, "pack_by must be 'cost', 'elements' or 'time', got 'size'"),
        ({"pack_by": None}, "pack_by must be 'cost', 'elements' or 'time', got None"),
        ({"exact_k": 1}, "exact_k must be true or false, got 1"),
        ({"exact_k": "yes"}, "exact_k must be true or false, got 'yes'"),
        ({"repack_every": 0}, "repack_every must be a whole number and at least 1, got 0"),
        ({"repack_every": 2.0}, "repack_every must be a whole number and at least 1, got 2.0"),
        ({"repack_every": True}, "repack_every must be a whole number and at least 1, got True"),
        ({"merge": -1}, "merge must be a whole number and at least 0, got -1"),
        ({"cut": -1}, "cut must be a whole number and at least 0, got -1"),
        ({"cut": 2.5}, "cut must be a whole number and at least 0, got 2.5"),
        ({"merge": "64"}, "merge must be a whole number and at least 0, got '64'"),
    ],
)
def test_options_that_are_none_are_refused(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        gw.exchange.DEFT(0.1, **wrong)  # type: ignore[arg-type]


def test_options_at_their_defaults_go_unsaid() -> None:
    """The repr of the plain exchange is that in checkpoints that are older than the options."""
    assert repr(gw.exchange.DEFT(0.01)) == "DEFT(density=0.01)"
    assert repr(gw.exchange.DEFT(0.01, merge=64)) == "DEFT(density=0.01, merge=64)"


def units_of(widths: list[int]) -> list[gw.Layout]:
    return [gw.Layout([f"unit{i}"], [(width,)]) for i, width in enumerate(widths)]


def descend(spec: str, layouts: list[gw.Layout], scales: list[float], rounds: int) -> tuple[float, list[int]]:
    """Run gradient descent on (1/2) sum over units of scale * |x - target|^2 with four workers, each with its own
    noise.

    Returns the share of the loss that is left, and the values sent in every round.
    """
    rng = torch.Generator().manual_seed(3)
    targets = [torch.randn(layout.d, generator=rng) for layout in layouts]
    points = [torch.zeros(layout.d) for layout in layouts]
    sims = [gw.Simulator(spec, layout, 4) for layout in layouts]
    sent: list[int] = []
    for _ in range(rounds):
        shares = divide_budget({sim.layout: sim.state[0] if sim.state else {} for sim in sims})
        sent.append(0)
        for sim, x, target, scale in zip(sims, points, targets, scales, strict=True):
            noise = 0.01 * torch.randn(4, layout_d := sim.layout.d, generator=rng)
            mean = sim.step(scale * (x - target) + scale * noise, budget=shares[sim.layout]).mean
            x -= 0.2 / max(scales) * mean
            sent[-1] += int((mean != 0).sum())
            assert len(mean) == layout_d
    loss = [
        scale * (x - target).square().sum().item() for x, target, scale in zip(points, targets, scales, strict=True)
    ]
    start = [scale * target.square().sum().item() for target, scale in zip(targets, scales, strict=True)]
    return sum(loss) / sum(start), sent


def test_overlapping_units_share_k_by_the_norms_of_the_step_before() -> None:
    """One of ten layers has ten times the gradient. By size it gets too little; by norms it gets as much as in one
    unit.
    """
    scales = [10.0] + [1.0] * 9
    units = units_of([1000] * 10)
    by_size, _ = descend("ef(deft(density=0.02))", units, scales, 120)
    by_norm, sent = descend("ef(deft(density=0.02, overlap=true))", units, scales, 120)
    assert by_norm < 0.7 * by_size
    # Norms of one step ago, budgets rounded unit by unit: k to within a tenth, and a value a layer and worker at least.
    assert all(abs(count - 200) <= 0.1 * 200 + 10 * 4 for count in sent[1:])


def test_overlapping_units_converge_like_the_whole_model() -> None:
    scales = [10.0, 1.0, 1.0, 3.0]
    widths = [1000, 2000, 500, 1500]
    units, whole = units_of(widths), gw.Layout([f"unit{i}" for i in range(4)], [(width,) for width in widths])
    left, _ = descend("ef(deft(density=0.05, overlap=true))", units, scales, 120)
    rng = torch.Generator().manual_seed(3)
    target = torch.cat([torch.randn(width, generator=rng) for width in widths])
    scale = torch.cat([torch.full((width,), s) for width, s in zip(widths, scales, strict=True)])
    sim, x = gw.Simulator("ef(deft(density=0.05))", whole, 4), torch.zeros(whole.d)
    for _ in range(120):
        x -= 0.02 * sim.step(scale * (x - target) + 0.01 * scale * torch.randn(4, whole.d, generator=rng)).mean
    wanted = (scale * (x - target).square()).sum() / (scale * target.square()).sum()
    assert left < 1.1 * wanted + 1e-4


def test_shares_are_by_size_before_anything_is_known_and_add_up_to_the_whole() -> None:
    units = units_of([10, 30, 0, 60])
    exchange = gw.parse("ef(deft(density=0.1, overlap=true))")
    states = {layout: exchange.init(layout) for layout in units}
    assert set(divide_budget(states).values()) == {1.0}
    for state, weight in zip(states.values(), (5.0, 0.0, 3.0, 2.0), strict=True):
        state["inner"]["weight"].fill_(weight)
    shares = divide_budget(states)
    assert sum(share * layout.d for layout, share in shares.items()) == pytest.approx(0.7 * 100)  # an empty one: lost
    assert shares[units[1]] == 0.0
    assert divide_budget({units[0]: states[units[0]]}) == {units[0]: 1.0}


def test_a_whole_model_knows_no_overlap() -> None:
    """With one layout the values are the same with and without the option, which only adds a weight of four bytes."""
    layout = gw.Layout(["a", "b"], [(300,), (700,)])
    xs = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    plain, apart = (
        gw.Simulator("deft(density=0.05)", layout, 3),
        gw.Simulator("deft(density=0.05, overlap=true)", layout, 3),
    )
    assert torch.equal(plain.step(xs).mean, apart.step(xs).mean)
    assert apart.ledger.entries["Broadcast"].bytes == plain.ledger.entries["Broadcast"].bytes + 4
    norms = sum(torch.linalg.vector_norm(part.double()).item() for part in xs[0].tensor_split([300, 534, 767]))
    assert apart.state[2]["weight"].item() == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize("spec", ["ef(deft(density=0.05))", "ef(deft(density=0.05, k_source='delegate'))"])
def test_under_error_feedback_no_pass_is_made_for_norms(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norms come with the accumulated vector, and the same values are sent."""
    where, n = layout([(90, 100), (90,), (3000,)]), 3
    exchange, xs = gw.parse(spec), accumulators(3, where, equal=False)
    assert isinstance(exchange, gw.memory.EF)
    plain = gw.Simulator(spec, where, n).step(xs).mean
    if not kernels.warm_up():
        pytest.skip("without Numba the norms are a pass of their own")
    monkeypatch.setattr(kernels, "norms", None)
    workers = []
    for rank in range(n):
        state, turn = exchange.init(where), gw.Turn(rank, n, 0, where)
        pieces = [part.reshape(-1) for part in where.cut(xs[rank].clone()).values()]
        made = exchange.accumulate(pieces, state, turn)
        workers.append(exchange(made, state, turn))
    for sent in gw.lockstep(workers):
        assert torch.equal(sent.mean.dense(), plain)
