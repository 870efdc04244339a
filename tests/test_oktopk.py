"""Ok-Topk compared with its dense definition, its volume with the paper's bound, and the ask it needs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import gradwire as gw
from gradwire.exchange.oktopk import Regions
from gradwire.exchange.oktopk.pieces import Pieces
from gradwire.exchange.oktopk.threshold import kth_largest
from gradwire.kernels import reference
from gradwire.wire import index


def flat(d: int) -> gw.Layout:
    return gw.Layout(["w"], [(d,)])


async def ask(one: gw.AllToAll) -> Tensor:
    return await one


def rows_of(n: int, m: int = 3) -> Tensor:
    """Return u8[n, n, m] in which [a, b] is a's message for b."""
    return (10 * torch.arange(n).view(n, 1, 1) + torch.arange(n).view(1, n, 1)).expand(n, n, m).to(torch.uint8)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_an_all_to_all_hands_row_r_to_rank_r(n: int) -> None:
    wires, ledger, other = rows_of(n), gw.Ledger(n), gw.Ledger(n)
    received = gw.lockstep([ask(gw.AllToAll(wires[rank])) for rank in range(n)], ledger)
    assert torch.equal(torch.stack(received), wires.transpose(0, 1))
    assert torch.equal(gw.batched(ask(gw.AllToAll(wires)), n, other), wires.transpose(0, 1))
    for entries in (ledger.entries["AllToAll"], other.entries["AllToAll"]):
        assert (entries.calls, entries.bytes, entries.traffic) == (n, n * n * 3, pytest.approx(n * (n - 1) * 3))
    received[0].zero_()  # answers are nobody else's memory
    assert int(wires[-1, 0, 0]) == 10 * (n - 1)


def test_an_all_to_all_without_a_row_for_every_worker_is_refused() -> None:
    short = torch.zeros(2, 3, dtype=torch.uint8)
    words = r"one row for each of 3 workers, got AllToAll\(uint8\[2, 3\]\)"
    with pytest.raises(ValueError, match=words):
        gw.lockstep([ask(gw.AllToAll(short)) for _ in range(3)])
    with pytest.raises(ValueError, match=r"got AllToAll\(uint8\[3, 2, 3\]\)"):
        gw.batched(ask(gw.AllToAll(short.expand(3, 2, 3))), 3)


def test_an_all_to_all_brings_its_tensor_and_sends_all_rows_but_one() -> None:
    one = gw.AllToAll(torch.zeros(4, 25, dtype=torch.uint8))
    assert (one.brought(2), one.traffic(2, 4)) == (100, 75)


magnitudes = st.lists(
    st.lists(st.floats(0, 2.0**100, width=32, exclude_min=True, allow_subnormal=False), max_size=12),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(magnitudes, st.integers(1, 20), st.sampled_from([torch.float32, torch.float64]))
def test_the_kth_largest_of_all_workers_is_exact(sizes: list[list[float]], k: int, dtype: torch.dtype) -> None:
    every = sorted((size for worker in sizes for size in worker), reverse=True)
    found = gw.lockstep([kth_largest(torch.tensor(worker, dtype=dtype), k) for worker in sizes])
    assert found == [every[k - 1] if k <= len(every) else 0.0] * len(sizes)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 60), st.integers(1, 4), st.sampled_from([torch.float32, torch.float64]))
def test_pieces_are_read_as_they_were_cut(data: st.DataObject, span: int, n: int, dtype: torch.dtype) -> None:
    rows = [sorted(data.draw(st.sets(st.integers(0, span - 1), max_size=8))) for _ in range(n)]
    indices = torch.tensor([i for row in rows for i in row], dtype=torch.int64)
    values = torch.randn(len(indices), dtype=dtype)
    pieces = Pieces(max(map(len, rows)), span, dtype)
    wires = pieces.encode(indices, values, [len(row) for row in rows])
    assert wires.shape == (n, index.nbytes(span + pieces.width, pieces.width) + pieces.width * dtype.itemsize)
    starts = [100 * row for row in range(n)]
    decoded, entries = pieces.read(wires, starts, 100 * n)
    assert decoded.tolist() == [start + i for start, row in zip(starts, rows, strict=True) for i in row]
    assert torch.equal(entries, values)


@pytest.mark.parametrize("width", [1, 7, 100, 5000])
@pytest.mark.parametrize("span", [1, 1000, 10_000_000, 2**31])
def test_an_index_takes_less_than_an_element(width: int, span: int) -> None:
    assert index.nbytes(span + width, width) <= 4 * width + 1


def local(x: Tensor, k: int) -> Tensor:
    """Return, for f[n, d], every worker's own k largest, with zeros elsewhere."""
    indices = torch.stack([reference.topk(row, k) for row in x])
    return torch.zeros_like(x).scatter_(1, indices, x.gather(1, indices))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_a_recomputed_step_is_the_top_k_of_the_sum_of_local_top_ks(n: int, dtype: torch.dtype) -> None:
    d, k = 1000, 40
    sim = gw.Simulator("oktopk(density=0.04, recompute_every=1)", flat(d), n)
    for step in range(4):
        x = torch.randn(n, d, generator=torch.Generator().manual_seed(step), dtype=torch.float64).to(dtype)
        kept = local(x, k)
        total = sum(kept[1:], kept[0].clone())
        indices = reference.topk(total, k)
        want = torch.zeros(d, dtype=dtype).scatter_(0, indices, total[indices] / n)
        sent = sim.step(x)
        assert torch.equal(sent.mean, want)
        assert torch.equal(sent.own, torch.where(want != 0, kept, 0))


streams = st.integers(1, 5).flatmap(
    lambda n: st.integers(0, 24).flatmap(
        lambda d: st.lists(
            st.lists(st.lists(st.integers(-3, 3), min_size=d, max_size=d), min_size=n, max_size=n),
            min_size=1,
            max_size=4,
        )
    )
)


@settings(deadline=None, max_examples=40)
@given(streams, st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.integers(1, 3))
def test_any_stream_of_ties_and_zeros(stream: list[list[list[int]]], density: float, every: int) -> None:
    """The law holds, `own` is valid, and k indices are sent if they are selected again, otherwise at most 2 k."""
    x = torch.tensor(stream, dtype=torch.float64)
    n, d = len(stream[0]), len(stream[0][0])
    x = x.view(len(stream), n, d)
    k = min(d, max(1, int(density * d)))
    sim = gw.Simulator(gw.exchange.OkTopk(density, every), flat(d), n)
    for step, rows in enumerate(x):
        sent = sim.step(rows)
        torch.testing.assert_close(sent.mean, sent.own.mean(0), rtol=1e-12, atol=0)
        assert bool(((sent.own == rows) | (sent.own == 0)).all())
        count = int((sent.mean != 0).sum())
        assert count <= 2 * k
        if step % every == 0:
            total = local(rows, k).sum(0)
            assert count == min(k, int((total != 0).sum()))
            unsaid = total[sent.mean == 0].abs()
            assert (
                not count or unsaid.numel() == 0 or unsaid.max() <= (n * sent.mean.abs()[sent.mean != 0]).min() + 1e-9
            )


def stream(n: int, d: int, steps: int, seed: int = 0) -> list[Tensor]:
    """Return f32[n, d] that change slowly, with a common part and larger values at the start of the vector."""
    rng = torch.Generator().manual_seed(seed)
    common, own = torch.randn(d, generator=rng), torch.randn(n, d, generator=rng)
    scale, xs = torch.logspace(0, -2, d), list[Tensor]()
    for _ in range(steps):
        own = 0.95 * own + 0.3 * torch.randn(n, d, generator=rng)
        xs.append((common + own) * scale)
    return xs


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_the_volume_is_below_six_k_whatever_the_workers(n: int) -> None:
    """Counted in elements of 4 bytes on a worker's link in every step, with padding and renewals; 4 k in ordinary
    steps.
    """
    d, k = 60_000, 1800
    sim = gw.Simulator("oktopk(density=0.03, recompute_every=8)", flat(d), n)
    before = 0
    for step, x in enumerate(stream(n, d, 12)):
        sim.step(x)
        volume, before = (sim.ledger.traffic - before) / 4, sim.ledger.traffic
        assert volume < 6 * k
        if step % 8:
            assert volume < 4 * k * (n - 1) / n
    # Four asks in an ordinary step; a renewal asks for the plan, and by four Sums for the threshold.
    calls = {kind: entry.calls // n for kind, entry in sim.ledger.entries.items()}
    assert calls == {"AllReduce": 2 * 5, "AllGather": 12 * 3, "Broadcast": 0, "AllToAll": 12}


def test_an_ordinary_step_brings_what_formats_md_says() -> None:
    """It brings (8.6 + 32) (1 + 1 / n) bits a kept value; without any order the longest row is 4 %
    longer than k / n.
    """
    d, k, n = 500_000, 5000, 4
    x = torch.randn(d, generator=torch.Generator().manual_seed(0)).repeat(n, 1)
    sim = gw.Simulator("oktopk(density=0.01)", flat(d), n)
    for _ in range(2):
        before = sim.ledger.bytes
        sim.step(x)
    assert 8 * (sim.ledger.bytes - before) / k == pytest.approx((8.6 + 32) * (1 + 1 / n), rel=0.05)


def test_counts_stay_near_k_between_recomputations() -> None:
    d, k, n = 40_000, 800, 4
    sim = gw.Simulator("oktopk(density=0.02)", flat(d), n)
    for step, x in enumerate(stream(n, d, 40, seed=1)):
        sums = sim.ledger.entries["AllReduce"].calls
        count = int((sim.step(x).mean != 0).sum())
        recomputed = sim.ledger.entries["AllReduce"].calls > sums
        assert recomputed == (step % 32 == 0)
        assert count == k if recomputed else abs(count / k - 1) <= 0.15


def test_regions_hold_equal_shares_of_what_is_selected() -> None:
    """The values are at the start of the vector, so of 8 equal spans the first would hold more than half."""
    d, n = 40_000, 8
    sim = gw.Simulator("oktopk(density=0.02)", flat(d), n)
    (x,) = stream(n, d, 1)
    sim.step(x)
    plan = Regions.read(sim.state[0], n, d)
    assert plan is not None
    chosen = (local(x, 800) != 0).sum(0)
    shares = [int(chosen[a:b].sum()) / (800 * n) for a, b in zip(plan.bounds, plan.bounds[1:], strict=False)]
    assert int(chosen[: d // n].sum()) > 0.5 * 800 * n
    assert max(shares) <= 1.25 / n
    assert all(torch.equal(state["plan"], sim.state[0]["plan"]) for state in sim.state)


def test_sums_that_lie_with_one_owner_are_spread_first() -> None:
    """Workers cancel each other except in the first quarter, so its owner has everything that is sent."""
    d, n = 8000, 4
    x = torch.randn(d, generator=torch.Generator().manual_seed(0)).repeat(n, 1)
    x[1::2, d // n :] *= -1
    sim = gw.Simulator("oktopk(density=0.1)", flat(d), n)
    sent = sim.step(x)
    count = int((sent.mean != 0).sum())
    assert not sent.mean[d // n :].any()
    assert count == pytest.approx(200, rel=0.2)
    torch.testing.assert_close(sent.mean, sent.own.mean(0))
    assert sim.ledger.entries["AllToAll"].calls == 2 * n
    # The first all-to-all and everything before it, then c a row to all, then c from all.
    factor, even = (n - 1) / n, -(-count // n)
    first, plan, radix, counts = n * first_row(sim, x), 8 * (2 * n - 1), 2048, 2 * 8 * n
    second = n * (index.nbytes(d + even, even) + 4 * even)
    assert sim.ledger.traffic == pytest.approx(factor * (first + 2 * plan + 2 * radix + counts + 2 * second), abs=1)


def first_row(sim: gw.Simulator, x: Tensor) -> int:
    """Return the bytes of one row of the first all-to-all, from the definition of p."""
    n, d = x.shape
    plan = Regions.read(sim.state[0], n, d)
    assert plan is not None
    edges = torch.tensor(plan.bounds)
    p = max(int(torch.searchsorted(reference.topk(row, d // 10), edges).diff().max()) for row in x)
    return index.nbytes(plan.largest + p, p) + 4 * p


@pytest.mark.parametrize("jump", [0.01, 100.0])
def test_a_jump_is_met_in_the_same_step(jump: float) -> None:
    """k values are sent by new thresholds; not all values, and not none until the next recomputation."""
    sim = gw.Simulator("oktopk(density=0.05)", flat(2000), 3)
    first, second = stream(3, 2000, 2)
    sim.step(first)
    assert int((sim.step(jump * second).mean != 0).sum()) == 100


def test_a_plan_for_other_workers_is_made_anew() -> None:
    xs = stream(3, 500, 1)[0]
    sim, other = gw.Simulator("oktopk(density=0.1)", flat(500), 2), gw.Simulator("oktopk(density=0.1)", flat(500), 3)
    sim.step(xs[:2])
    exchange, turns = gw.exchange.OkTopk(0.1), [gw.Turn(rank, 3, 1, flat(500)) for rank in range(3)]
    states = [{"plan": sim.state[0]["plan"].clone()} for _ in range(3)]
    sent = gw.lockstep([exchange(x, state, turn) for x, state, turn in zip(xs, states, turns, strict=True)])
    assert torch.equal(sent[0].mean.dense(), other.step(xs).mean)
    assert states[0]["plan"].shape == (2, 4)


@pytest.mark.parametrize("n", [1, 5, 7])
@pytest.mark.parametrize("d", [0, 1, 3])
def test_fewer_elements_than_workers(n: int, d: int) -> None:
    sim = gw.Simulator("ef(oktopk(density=0.5))", flat(d), n)
    for step in range(4):
        x = torch.randn(n, d, generator=torch.Generator().manual_seed(step))
        sent = sim.step(x if step != 1 else torch.zeros(n, d))
        torch.testing.assert_close(sent.mean, sent.own.mean(0))


@pytest.mark.parametrize("n", [1, 3])
def test_everything_at_density_one(n: int) -> None:
    sim = gw.Simulator("ef(oktopk(density=1.0))", flat(300), n)
    for x in stream(n, 300, 3):
        torch.testing.assert_close(sim.step(x).mean, x.mean(0))
    assert not any(state["error"].any() for state in sim.state)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("oktopk(density=0)", r"density must lie in \(0, 1\], got 0"),
        ("oktopk(density=1.5)", r"density must lie in \(0, 1\], got 1.5"),
        ("oktopk(density='much')", r"density must lie in \(0, 1\], got much"),
        ("oktopk(density=0.1, recompute_every=0)", "recompute_every must be a whole number and at least 1, got 0"),
        ("oktopk(density=0.1, recompute_every=2.5)", "recompute_every must be a whole number and at least 1, got 2.5"),
        ("oktopk(density=0.1, recompute_every=true)", "at least 1, got True"),
    ],
)
def test_bad_parameters_are_refused(spec: str, words: str) -> None:
    with pytest.raises(gw.SpecError, match=words):
        gw.parse(spec)
