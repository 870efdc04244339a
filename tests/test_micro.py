"""MiCRO and ExDyna: a common threshold that keeps the density, parts that rotate, and parts that become balanced."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import gradwire as gw
from gradwire import spec
from gradwire.exchange import State, exdyna, micro, threshold
from gradwire.wire import index

BOTH = pytest.mark.parametrize("make", [gw.exchange.MiCRO, gw.exchange.ExDyna])


def flat(d: int) -> gw.Layout:
    return gw.Layout(["x"], [(d,)])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def step(exchange: gw.Exchange, xs: Tensor, states: Sequence[State], t: int) -> list[gw.Sent]:
    """Run one step of several workers in lockstep."""
    n, where = len(xs), flat(xs.shape[-1])
    return gw.lockstep([exchange(x, states[r], gw.Turn(r, n, t, where)) for r, x in enumerate(xs)])


def start(exchange: gw.Exchange, xs: Tensor) -> list[State]:
    return [exchange.init(flat(xs.shape[-1]), xs.dtype) for _ in xs]


def ratios(exchange: gw.Exchange, stream: Iterator[Tensor], density: float) -> list[float]:
    """Return k' / k of every step."""
    found, states = list[float](), list[State]()
    for t, xs in enumerate(stream):
        states = states or start(exchange, xs)
        sent = step(exchange, xs, states, t)
        found.append(sent[0].mean.indices.shape[-1] / (density * xs.shape[-1]))
    return found


def steady(n: int, d: int, steps: int, scale: float = 1.0) -> Iterator[Tensor]:
    """Return vectors with the same distribution at every step."""
    rng = torch.Generator().manual_seed(3)
    return (torch.randn(n, d, generator=rng) * scale for _ in range(steps))


# ---- the threshold


@pytest.mark.parametrize(
    ("ratio", "corrected", "official"),
    [
        (7.0, 1.005, 1.005),
        (1.1001, 1.005, 1.005),
        (1.1, 1.00125, 1.00125),
        (1.0001, 1.00125, 1.00125),
        (1.0, 0.9987, 1.00125),
        (0.9091, 0.9987, 1.00125),
        (0.909, 0.995, 0.995),
        (0.0, 0.995, 0.995),
    ],
)
def test_the_factors_are_those_of_the_authors_code(ratio: float, corrected: float, official: float) -> None:
    assert threshold.factor(ratio, official=False) == corrected
    assert threshold.factor(ratio, official=True) == official


def test_a_threshold_doubles_in_139_steps() -> None:
    assert 1.005**138 < 2 < 1.005**139


class Plain:
    """MiCRO as its specification says, with lists and loops."""

    def __init__(self, density: float, n: int, d: int, official: bool) -> None:
        self.n, self.k, self.official = n, int(density * d), official
        self.delta, self.last = 1 / (2 * math.sqrt(self.k)), None
        q, r = divmod(d, n)
        sizes = [q + 1] * r + [q] * (n - r)
        self.parts = [list(range(sum(sizes[:p]), sum(sizes[: p + 1]))) for p in range(n)]

    def step(self, acc: list[list[float]], t: int) -> set[int]:
        if self.last is not None:
            ratio = self.last / self.k
            if ratio > 1.1:
                self.delta *= 1.005
            elif ratio > 0.909:
                self.delta *= 1.00125 if (ratio > 0 if self.official else ratio > 1) else 0.9987
            else:
                self.delta *= 0.995
        found = set[int]()
        for rank in range(self.n):
            part = self.parts[(t + rank) % self.n]
            own = [j for j in part if abs(acc[rank][j]) >= self.delta]
            found |= set(own or [part[0] + t % len(part)])
        self.last = len(found)
        return found


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("scale", [0.02, 0.1, 0.5])
def test_golden_trajectory(official: bool, scale: float) -> None:
    """Supports and thresholds equal those of the plain algorithm while k' is too low, about right and too high."""
    n, d, density = 3, 200, 0.1
    exchange, plain = gw.exchange.MiCRO(density, "formula", official), Plain(density, n, d, official)
    states = start(exchange, normal(n, d))
    for t in range(40):
        xs = normal(n, d, seed=t) * scale
        sent = step(exchange, xs, states, t)
        wanted = plain.step(xs.tolist(), t)
        assert sent[0].mean.indices.tolist() == sorted(wanted)
        known = plain.delta * threshold.factor(len(wanted) / plain.k, official)
        assert float(states[1]["threshold"]) == pytest.approx(known, rel=1e-14)


@BOTH
@pytest.mark.parametrize("kind", ["sample", "formula, too low", "formula, too high"])
def test_density_comes_into_its_band_and_stays_there(make: type[gw.exchange.MiCRO], kind: str) -> None:
    """On a steady stream it does so at once from a sample, and at half a percent a step from a
    threshold wrong by 1.8.
    """
    n, d, density, steps = 4, 20_000, 0.2, 190
    right = 1.2816 * 2 * math.sqrt(density * d)  # the quantile of a normal distribution, over 1 / (2 sqrt(k))
    scale = {"sample": 1e6, "formula, too low": 1.8 / right, "formula, too high": 1 / 1.8 / right}[kind]
    found = ratios(make(density, kind.split(",")[0]), steady(n, d, steps, scale), density)
    # k is 4000, so that chance moves k' by 1.5 %, a seventh of the band.
    assert all(0.909 <= ratio <= 1.1 for ratio in found[5 if kind == "sample" else 150 :])
    assert kind == "sample" or not 0.8 <= found[0] <= 1.25


def test_the_official_threshold_creeps_up_inside_the_band() -> None:
    """It also rises while k' lies between 0.909 k and k, so k' ends at the band's lower edge instead of at k."""
    n, d, density = 4, 20_000, 0.2
    found = {}
    for official in (False, True):
        last = ratios(gw.exchange.MiCRO(density, official=official), steady(n, d, 200), density)[100:]
        found[official] = sum(last) / len(last)
    assert abs(found[False] - 1) < 0.01
    assert 0.89 < found[True] < 0.94


@BOTH
def test_all_ranks_know_the_same_facts(make: type[gw.exchange.MiCRO]) -> None:
    exchange, xs = gw.memory.EF(make(0.05)), normal(5, 700)
    states = start(exchange, xs)
    for t in range(20):
        step(exchange, normal(5, 700, seed=t), states, t)
        for name, replicated in states[0]["inner"].items():
            assert all(torch.equal(replicated, state["inner"][name]) for state in states)


def test_the_target_is_one_a_worker_at_least() -> None:
    """That many are always sent; with a lower target the threshold would rise for ever."""
    control = threshold.Control(0.01, "sample", official=False)
    assert [control.k(d, n) for d, n in ((0, 3), (2, 3), (100, 1), (100, 7), (1000, 7))] == [1, 2, 1, 7, 10]


# ---- its start


def test_the_formula_is_the_authors() -> None:
    control, xs = threshold.Control(0.04, "formula", official=False), torch.zeros(1, 10_000)
    states = start(gw.exchange.MiCRO(0.04, "formula"), xs)
    step(gw.exchange.MiCRO(0.04, "formula"), xs, states, 0)
    assert float(states[0]["threshold"]) == pytest.approx(control.following(1 / (2 * math.sqrt(400)), 0.0))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_small_sample_is_all_there_is(n: int) -> None:
    """Up to k = 255 the first step sends exactly the k largest of what is searched, wherever they are."""
    d, k = 1000, 200
    xs = normal(n, d) * torch.logspace(0, 0.5, d, dtype=torch.float64)
    searched = torch.cat([xs[p, a:b] for p, (a, b) in enumerate(micro.partition(d, n))])
    sent = step(gw.exchange.MiCRO(k / d), xs, start(gw.exchange.MiCRO(k / d), xs), 0)
    assert sent[0].mean.indices.tolist() == sorted(searched.abs().topk(k).indices.tolist())


def test_a_large_sample_is_cheap_and_close() -> None:
    """A worker sends at most 511 values, never more than k, and k' has a standard deviation below 8 % of k."""
    counts = [threshold.sampling(k)[1] for k in range(1, 20_000)]
    assert max(counts) == 511
    assert all(m <= k and (m == k or m >= 128) for k, m in enumerate(counts, 1))
    assert min(counts[10_000:]) >= 240
    found = []
    for seed in range(20):
        xs = normal(2, 50_000, seed=seed)
        found.append(len(step(gw.exchange.MiCRO(0.1), xs, start(gw.exchange.MiCRO(0.1), xs), 0)[0].mean.indices) / 5000)
    assert abs(sum(found) / len(found) - 1) < 0.05
    assert float(torch.tensor(found).std()) < 0.08


@BOTH
@pytest.mark.parametrize("factor", [1000.0, 1e-30])
def test_the_gradients_scale_does_not_matter(make: type[gw.exchange.MiCRO], factor: float) -> None:
    supports = []
    for scale in (1.0, factor):
        sim = gw.Simulator(gw.memory.EF(make(0.05)), flat(900), 3)
        supports.append(torch.stack([sim.step(normal(3, 900, seed=t) * scale).mean != 0 for t in range(30)]))
    assert torch.equal(*supports)


def test_a_threshold_far_off_is_sampled_anew_and_only_by_who_samples() -> None:
    """Beyond a factor of 1.25, or with too many values, the next step samples again; with the authors' start it does
    not.
    """
    xs = normal(2, 4000)
    for kind, asked in (("sample", [2, 1, 2, 2, 1]), ("formula", [2, 2, 2, 2, 2])):
        sim, calls = gw.Simulator(gw.exchange.MiCRO(0.1, kind), flat(4000), 2), [0]
        for scale in (1.0, 1.0, 2.0, 2.0, 2.0):
            sim.step(xs * scale)
            calls.append(sim.ledger.entries["AllGather"].calls // 2)
        assert [after - before for before, after in itertools.pairwise(calls)] == asked


def test_where_little_is_not_zero_all_of_it_passes() -> None:
    xs = torch.zeros(2, 1000)
    xs[:, [3, 7, 500, 900]] = torch.tensor([1.0, 1e-20, -5.0, 1e20])
    sent = gw.Simulator(gw.exchange.MiCRO(0.1), flat(1000), 2).step(xs)
    assert torch.equal(sent.mean, xs[0])


@BOTH
def test_a_network_in_training_keeps_its_density(make: type[gw.exchange.MiCRO]) -> None:
    """Under error feedback accumulators keep growing; after 150 steps the mean density is in its band."""
    rng, n, density = torch.Generator().manual_seed(0), 4, 0.02
    teacher = torch.randn(20, 5, generator=rng)
    w1, w2 = torch.randn(20, 200, generator=rng) / 5, torch.randn(200, 5, generator=rng) / 14
    layout = gw.Layout(["w1", "w2"], [w1.shape, w2.shape])
    sim, found = gw.Simulator(gw.memory.EF(make(density)), layout, n), list[float]()
    for _ in range(250):
        xs = torch.empty(n, layout.d)
        for row in xs:
            x = torch.randn(32, 20, generator=rng)
            a, b = w1.requires_grad_(), w2.requires_grad_()
            loss = torch.nn.functional.cross_entropy((x @ a).relu() @ b, (x @ teacher).argmax(-1))
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, (a, b))], out=row)
        sent = layout.cut(sim.step(xs).mean)
        w1, w2 = w1.detach() - 0.2 * sent["w1"], w2.detach() - 0.2 * sent["w2"]
        found.append(sum(int((part != 0).sum()) for part in sent.values()) / (density * layout.d))
    assert 0.909 <= sum(found[150:]) / 100 <= 1.1
    assert 0.909 <= sum(found) / 250 <= 1.2


# ---- who searches what


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 12))
def test_parts_tile_the_vector_and_differ_by_one(d: int, n: int) -> None:
    parts = micro.partition(d, n)
    assert [i for start, end in parts for i in range(start, end)] == list(range(d))
    sizes = [end - start for start, end in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


def test_parts_rotate() -> None:
    """Only worker 0 has values. At step t it searches part t % n; every other part gives its position t % size."""
    n, d = 4, 42
    xs = torch.zeros(n, d)
    xs[0] = 1.0
    exchange = gw.exchange.MiCRO(0.5, "formula")
    states = start(exchange, xs)
    for t in range(9):
        parts = micro.partition(d, n)
        mine, others = parts[t % n], [part for p, part in enumerate(parts) if p != t % n]
        wanted = [*range(*mine), *(a + t % (b - a) for a, b in others)]
        assert step(exchange, xs, states, t)[0].mean.indices.tolist() == sorted(wanted)


# ---- ExDyna's blocks


@settings(deadline=None)
@given(st.integers(0, 4_000_000))
def test_blocks_are_1024_or_fewer_and_little_is_left_over(d: int) -> None:
    number, size = exdyna.blocks(d)
    assert number <= 1024
    assert size > 0
    assert size % 32 == 0
    left = d - number * size
    assert 0 <= left <= 32767
    if d >= 2**20:
        assert (number, size) == (1024, d // 1024 // 32 * 32)
    else:
        assert left < size


def test_below_a_million_elements_the_authors_blocks_would_leave_half_over() -> None:
    assert 65_535 - 1024 * (65_535 // 1024 // 32 * 32) == 32_767
    assert exdyna.blocks(65_535) == (1023, 64)
    assert exdyna.blocks(2**20) == (1024, 1024)


@settings(deadline=None)
@given(st.integers(0, 50_000), st.integers(1, 9), st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_parts_tile_the_vector_after_any_moves(d: int, n: int, seeds: list[int]) -> None:
    number, _ = exdyna.blocks(d)
    parts = [end - start for start, end in micro.partition(number, n)]
    for seed in seeds:
        counts = torch.randint(0, 50, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
        parts = exdyna.move(parts, counts, d)
        spans = exdyna.spans(parts, d)
        assert spans[0][0] == 0
        assert spans[-1][1] == d
        assert all(a <= b == c for (a, b), (c, _) in itertools.pairwise(spans))
        assert sum(parts) == number
        assert number < n or min(parts) >= number / (4 * n)


def plainly_moved(parts: list[int], counts: list[int], d: int) -> list[int]:
    """Apply the rule as its specification says."""
    blk_part, K, n = list(parts), list(counts), len(parts)
    num_blk, sz_blk = exdyna.blocks(d)
    k_acc, den, min_blk = sum(K) / n, sum(K) / d, num_blk / (4 * n)
    for p in range(n - 1):
        a, b = K[p] / k_acc, K[p + 1] / k_acc
        if a > 1.05 and b < 0.95238 and blk_part[p] - 1 >= min_blk:
            blk_part[p], blk_part[p + 1] = blk_part[p] - 1, blk_part[p + 1] + 1
            K[p], K[p + 1] = K[p] - int(sz_blk * den), K[p + 1] + int(sz_blk * den)
        if a < 0.95238 and b > 1.05 and blk_part[p + 1] - 1 >= min_blk:
            blk_part[p], blk_part[p + 1] = blk_part[p] + 1, blk_part[p + 1] - 1
            K[p], K[p + 1] = K[p] + int(sz_blk * den), K[p + 1] - int(sz_blk * den)
    return blk_part


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=9), st.integers(1000, 200_000))
def test_moves_are_the_specifications(counts: list[int], d: int) -> None:
    parts = [end - start for start, end in micro.partition(exdyna.blocks(d)[0], len(counts))]
    for _ in range(5):
        moved = exdyna.move(parts, counts, d)
        assert moved == plainly_moved(parts, counts, d)
        parts = moved


def test_golden_moves() -> None:
    """d = 2048 is 64 blocks of 32. A block moves to a part with fewer found, if both are far from the mean and blocks
    suffice.
    """
    d = 2048
    assert exdyna.move([16, 16, 16, 16], [90, 10, 10, 90], d) == [15, 17, 17, 15]
    assert exdyna.move([16, 16, 16, 16], [100, 100, 100, 100], d) == [16, 16, 16, 16]
    assert exdyna.move([16, 16, 16, 16], [104, 96, 104, 96], d) == [16, 16, 16, 16]
    assert exdyna.move([16, 16, 16, 16], [0, 0, 0, 0], d) == [16, 16, 16, 16]
    assert exdyna.move([4, 20, 20, 20], [90, 10, 10, 10], d) == [4, 20, 20, 20]
    # 400 found are 6 a block: the second part, 94 of an average of 100 and then 100, takes no more from the third.
    assert exdyna.move([16, 16, 16, 16], [112, 94, 106, 88], d) == [15, 17, 15, 17]


def test_inefficiency() -> None:
    assert exdyna.inefficiency([5, 5, 5]) == 0
    assert exdyna.inefficiency([9, 0, 0]) == 2
    assert exdyna.inefficiency([0, 0]) == 0


def test_exdyna_balances_what_lies_in_one_part() -> None:
    """All large values are in the first of four parts: lists are 4 times as long as needed at first, and 1.3 in the
    end.
    """
    n, d, density = 4, 4096, 0.1
    profile = torch.ones(d)
    profile[d // 4 :] = 1e-3
    exchange, found = gw.exchange.ExDyna(density), list[float]()
    states = start(exchange, torch.empty(n, d))
    for t, xs in enumerate(steady(n, d, 350)):
        number, _ = exdyna.blocks(d)
        held = [int((states[0]["owner"] == p).sum()) for p in range(n)] if t else [number // n] * n
        sent = step(exchange, xs * profile, states, t)
        indices = sent[0].mean.indices
        counts = [int(((indices >= a) & (indices < b)).sum()) for a, b in exdyna.spans(held, d)]
        found.append(exdyna.inefficiency(counts))
    assert found[0] > 2.9
    assert sum(found[-50:]) / 50 < 0.3


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_parts_of_another_number_of_workers_are_forgotten(n: int) -> None:
    """After loading the state of 4 workers there is an even split at once, and the threshold is kept."""
    exchange, d = gw.exchange.ExDyna(0.1), 2048
    profile = torch.logspace(0, -3, d, dtype=torch.float64)
    known = start(exchange, normal(4, d))
    for t in range(20):
        step(exchange, normal(4, d, seed=t) * profile, known, t)
    kept = known[0]["threshold"].clone()
    states = [{name: replicated.clone() for name, replicated in known[0].items()} for _ in range(n)]
    step(exchange, normal(n, d) * 0, states, 20)  # only single indices in every part: nothing moves
    assert [int((states[0]["owner"] == p).sum()) for p in range(n)] == [b - a for a, b in micro.partition(64, n)]
    assert float(states[0]["threshold"]) in (0.0, pytest.approx(0.995 * float(kept)))


# ---- what is sent, and hard inputs


@BOTH
def test_bytes_are_those_of_the_table(make: type[gw.exchange.MiCRO]) -> None:
    """First the sample; then counts and index blocks padded to the longest or to the reserved space;
    then all values.
    """
    n, d, k = 3, 3000, 150
    sim = gw.Simulator(make(k / d), flat(d), n)
    xs, gathered, summed = normal(n, d, dtype=torch.float32), 0, 0
    spans = micro.partition(d, n) if make is gw.exchange.MiCRO else exdyna.spans([31, 31, 31], d)
    for t in range(2):
        indices = sim.step(xs).mean.nonzero().view(-1)
        counts = [int(((indices >= a) & (indices < b)).sum()) for a, b in spans]
        longest = max(index.nbytes(b - a, count) for (a, b), count in zip(spans, counts, strict=True))
        room = max(index.nbytes(b - a, math.ceil(1.25 * k / n)) for a, b in spans)
        gathered += n * ((4 * k if t == 0 else 0) + 4 + max(room, longest))
        summed += n * 4 * len(indices)
        if make is gw.exchange.ExDyna:
            spans = exdyna.spans(exdyna.move([31, 31, 31], counts, d), d)
    assert exdyna.blocks(d) == (93, 32)
    assert sim.ledger.entries["AllGather"].bytes == gathered
    assert sim.ledger.entries["AllReduce"].bytes == summed
    assert sim.ledger.bytes * n == gathered + summed


@BOTH
@pytest.mark.parametrize("d", [0, 1, 3, 40])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_hard_inputs_obey_the_law(make: type[gw.exchange.MiCRO], d: int, n: int) -> None:
    """No values, a worker without any, equal values, fewer elements than workers: nothing is lost."""
    for kind in ("sample", "formula"):
        sim, sent_sum, given = gw.Simulator(gw.memory.EF(make(0.1, kind)), flat(d), n), torch.zeros(d), torch.zeros(d)
        for t in range(8):
            xs = normal(n, d, seed=t) if t % 4 else torch.ones(n, d, dtype=torch.float64)
            xs[0] *= t % 3
            xs *= t != 2
            sent = sim.step(xs)
            torch.testing.assert_close(sent.mean, sent.own.mean(0), rtol=1e-9, atol=1e-12)
            sent_sum, given = sent_sum + n * sent.mean, given + xs.sum(0)
        owed = sum(state["error"] for state in sim.state)
        torch.testing.assert_close(sent_sum + owed, given, rtol=1e-9, atol=1e-9)


@BOTH
def test_zero_gradients_leave_no_threshold_and_the_next_ones_make_one(make: type[gw.exchange.MiCRO]) -> None:
    exchange, xs = make(0.1), normal(3, 600)
    states = start(exchange, xs)
    for t in range(3):
        assert not step(exchange, xs * 0, states, t)[0].mean.dense().any()
        assert float(states[0]["threshold"]) == 0
    assert len(step(exchange, xs, states, 3)[0].mean.indices) == 60


@BOTH
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("density=0", r"density must lie in \(0, 1\], got 0"),
        ("density=1.5", r"density must lie in \(0, 1\], got 1.5"),
        ("density='much'", r"density must lie in \(0, 1\], got much"),
        ("density=true", r"density must lie in \(0, 1\], got True"),
        ("density=0.1, start='middle'", "start must be 'sample' or 'formula', got 'middle'"),
        ("density=0.1, start=none", "start must be 'sample' or 'formula', got None"),
        ("density=0.1, official=1", "official must be true or false, got 1"),
    ],
)
def test_bad_input_gets_one_sentence(make: type[gw.exchange.MiCRO], arguments: str, sentence: str) -> None:
    with pytest.raises(spec.SpecError, match=sentence):
        gw.parse(f"{make.__name__.lower()}({arguments})")


@BOTH
def test_it_is_a_projection_that_error_feedback_takes(make: type[gw.exchange.MiCRO]) -> None:
    assert make(0.1).delta(1000) == 0.0
    assert make(0.1).omega(1000) is None
    with pytest.raises(ValueError, match="use ef21"):
        gw.memory.DIANA(make(0.1))
