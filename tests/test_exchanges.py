"""PowerSGD, Perm-K and the int8 all-reduce: the law, the promises of their papers, and that a batch is n workers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import zoo

import gradwire as gw
from gradwire.exchange.int8 import Int8AllReduce
from gradwire.exchange.permk import PermK
from gradwire.exchange.powersgd import PowerSGD
from gradwire.kernels.permutation import permutation

DRAWS = 4000


def exchanges(n: int) -> list[gw.Exchange]:
    """Return exchanges whose randomness, if any, all workers share: batched they do the same as in lockstep."""
    return [
        PowerSGD(),
        PowerSGD(rank=2),
        PowerSGD(rank=9),
        gw.memory.EF(PowerSGD(rank=2)),
        PermK(n),
        gw.memory.DIANA(PermK(n)),
        gw.exchange.SharedRandK(0.1),
        gw.memory.EF(gw.exchange.SharedRandK(0.3, unbiased=False)),
        gw.exchange.Mean(),
        gw.exchange.Gathered(gw.compress.TopK(0.1)),
    ]


CASES = [(exchange, n) for n in (1, 2, 5) for exchange in exchanges(n)]
IDS = [f"{exchange}-{n}" for exchange, n in CASES]


def gradients(n: int, step: int, layout: gw.Layout = zoo.LAYOUT, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    x = torch.randn(n, layout.d, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x.to(dtype)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("exchange", "n"), CASES, ids=IDS)
def test_the_average_of_own_is_mean(exchange: gw.Exchange, n: int, batched: bool) -> None:
    sim = gw.Simulator(exchange, zoo.LAYOUT, n, seed=7, batched=batched)
    for step in range(4):
        sent = sim.step(gradients(n, step))
        assert sent.own.dtype == sent.mean.dtype == torch.float64
        # What is left is float64's rounding of projections and shifts.
        torch.testing.assert_close(sent.own.mean(0), sent.mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("exchange", "n"), CASES, ids=IDS)
def test_a_batch_is_n_workers(exchange: gw.Exchange, n: int) -> None:
    one, many = (gw.Simulator(exchange, zoo.LAYOUT, n, seed=7, batched=batched) for batched in (True, False))
    for step in range(4):
        batch, lockstep = one.step(gradients(n, step)), many.step(gradients(n, step))
        # A product of many rows adds in another order than that of one: float64's rounding, fed back by warm starts.
        torch.testing.assert_close(batch.own, lockstep.own, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(batch.mean, lockstep.mean, rtol=1e-8, atol=1e-10)
    assert one.ledger.bytes == many.ledger.bytes


# ---- PowerSGD

MATRIX = gw.Layout(["before", "M", "after"], [(3,), (30, 20), ()])
SPAN = slice(3, 603)


def matrices(x: torch.Tensor) -> torch.Tensor:
    """Cut f[..., d] into the matrices f[..., 30, 20] of MATRIX."""
    return x[..., SPAN].unflatten(-1, (30, 20))


def with_matrices(m: torch.Tensor) -> torch.Tensor:
    """Put f[n, 30, 20] into f[n, d], with some vectors around the matrices."""
    x = gradients(len(m), 1, MATRIX)
    x[:, SPAN] = m.flatten(1)
    return x


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("r", [1, 2, 5])
def test_what_has_the_rank_is_sent_exactly(r: int) -> None:
    """If the workers' matrices share their columns, P spans them in the very first step."""
    sim = gw.Simulator(PowerSGD(r), MATRIX, 3)
    for step in range(3):
        x = with_matrices(normal(30, r, seed=step) @ normal(3, r, 20, seed=step + 9))
        sent = sim.step(x)
        torch.testing.assert_close(sent.own, x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(sent.mean, x.mean(0), rtol=1e-9, atol=1e-9)


def test_a_mean_that_has_the_rank_is_exact_whatever_the_workers_have() -> None:
    noise = normal(3, 30, 20, seed=1)
    x = with_matrices(normal(30, 2) @ normal(2, 20, seed=5) + noise - noise.mean(0))
    torch.testing.assert_close(gw.Simulator(PowerSGD(2), MATRIX, 3).step(x).mean, x.mean(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("r", [1, 3])
def test_it_tends_to_the_best_approximation_of_a_matrix_that_stays(r: int) -> None:
    """By power iteration the span's error falls by (s_{r+1} / s_r)^2 = 1/4 a step, so 40 steps leave nothing."""
    u, v = torch.linalg.qr(normal(30, 20)).Q, torch.linalg.qr(normal(20, 20, seed=1)).Q
    s = 2.0 ** -torch.arange(20, dtype=torch.float64)
    noise = normal(3, 30, 20, seed=2)
    x = with_matrices(u @ torch.diag(s) @ v.mT + noise - noise.mean(0))
    sim = gw.Simulator(PowerSGD(r), MATRIX, 3)
    errors = [(matrices(sim.step(x).mean - x.mean(0))).norm().item() for _ in range(40)]
    assert errors[-1] == pytest.approx(s[r:].norm().item(), rel=1e-9)  # Eckart and Young
    assert errors[0] > errors[-1] * (1 + 1e-3)
    best = u[:, :r] @ torch.diag(s[:r]) @ v[:, :r].mT
    torch.testing.assert_close(matrices(sim.step(x).mean), best, rtol=0, atol=1e-9)


@pytest.mark.parametrize("r", [1, 2, 9])
def test_own_is_an_orthogonal_projection(r: int) -> None:
    """All workers project onto the same r columns: what is sent is orthogonal to the rest, and never longer than x."""
    sim = gw.Simulator(PowerSGD(r), MATRIX, 4)
    for step in range(3):
        x = gradients(4, step, MATRIX)
        own = sim.step(x).own
        sent_values, missed = matrices(own), matrices(x - own)
        assert torch.linalg.matrix_rank(torch.cat(list(sent_values), -1)) == r
        torch.testing.assert_close(sent_values.mT @ missed, torch.zeros(4, 20, 20, dtype=x.dtype), rtol=0, atol=1e-10)
        assert (missed.norm(dim=(1, 2)) <= matrices(x).norm(dim=(1, 2))).all()
        keep = torch.ones(MATRIX.d, dtype=torch.bool)
        keep[SPAN] = False
        assert torch.equal(own[:, keep], x[:, keep])


def gram_schmidt(p: torch.Tensor) -> torch.Tensor:
    columns: list[torch.Tensor] = []
    for column in p.unbind(1):
        for before in columns:
            column = column - (before @ column) * before
        columns.append(column / column.norm())
    return torch.stack(columns, 1)


def test_it_is_algorithm_1_of_the_paper() -> None:
    """Compared with Vogels et al. 2019, with Gram-Schmidt as there and explicit averages."""
    sim = gw.Simulator(PowerSGD(3), MATRIX, 2)
    sim.step(gradients(2, 0, MATRIX))
    for step in range(1, 5):
        q = sim.state[0]["q"][3 : 3 + 60].clone().view(20, 3)
        x = gradients(2, step, MATRIX)
        sent = sim.step(x)
        p = gram_schmidt((matrices(x) @ q).mean(0))
        q = (matrices(x).mT @ p).mean(0)
        torch.testing.assert_close(matrices(sent.mean), p @ q.mT, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(p @ p.mT @ matrices(x), matrices(sent.own), rtol=1e-9, atol=1e-9)
        assert all(torch.equal(sim.state[0]["q"], state["q"]) for state in sim.state)


@pytest.mark.parametrize("r", [1, 2, 4])
def test_two_messages_a_step_of_the_bytes_of_the_paper(r: int) -> None:
    """They have r (m + c) floats a matrix and all other tensors; (6, 6) is sent whole for r >= 3, and [8, 3, 3, 3] is
    [8, 27].
    """
    layout = gw.Layout("abcdef", [(40, 7), (6, 6), (7,), (8, 3, 3, 3), (0, 5), ()])
    worth = [(m, c) for m, c in [(40, 7), (6, 6), (8, 27)] if r * (m + c) < m * c]
    assert ((6, 6) in worth) == (r < 3)
    rest = layout.d - sum(m * c for m, c in worth)
    sim = gw.Simulator(PowerSGD(r), layout, 3)
    for step in range(4):
        sim.step(gradients(3, step, layout, torch.float32))
        assert sim.ledger.entries["AllReduce"].calls == 2 * 3 * (step + 1)
        assert sim.ledger.bytes == 4 * (r * sum(m + c for m, c in worth) + rest) * (step + 1)
        assert sim.ledger.entries["AllGather"].calls == sim.ledger.entries["Broadcast"].calls == 0


@pytest.mark.parametrize("names", ["", "a", "ab"])
def test_where_nothing_is_compressed_nothing_is_lost(names: str) -> None:
    layout = gw.Layout(list(names), [(5, 1), ()][: len(names)])
    sim = gw.Simulator(PowerSGD(), layout, 3)
    x = gradients(3, 0, layout)
    torch.testing.assert_close(sim.step(x).mean, x.mean(0))
    assert sim.ledger.entries["AllReduce"].calls == 3 * bool(names)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_it_says_that_it_is_exact_only_where_no_matrix_is_compressed(r: int) -> None:
    sizes = range(1, 4 * r**2 + 2)
    smallest = min(m * c for m, c in itertools.product(sizes, sizes) if r * (m + c) < m * c)
    exact = [d for d in range(200) if PowerSGD(r).omega(d) == 0.0]
    assert max(exact) < smallest
    assert all(PowerSGD(r).delta(d) == (1.0 if d in exact else 0.0) for d in range(200))
    assert PowerSGD(r).omega(200) is None
    square = gw.Layout(["square"], [(2 * r, 2 * r)])  # r (m + c) = m c: the same bytes, so the matrix itself
    x = gradients(2, 0, square)
    torch.testing.assert_close(gw.Simulator(PowerSGD(r), square, 2).step(x).mean, x.mean(0))


def test_error_feedback_conserves_and_its_error_stays_bounded() -> None:
    """Accumulators are what was sent plus errors; with constant gradients everything is sent in the long run."""
    sim = gw.Simulator(gw.memory.EF(PowerSGD(2)), MATRIX, 3)
    x = gradients(3, 0, MATRIX)
    errors, total, norms = torch.zeros_like(x), torch.zeros(MATRIX.d, dtype=x.dtype), []
    for _ in range(200):
        sent = sim.step(x)
        accumulators, errors = x + errors, torch.stack([state["error"] for state in sim.state])
        torch.testing.assert_close(accumulators, sent.own + errors, rtol=1e-12, atol=1e-11)
        total += sent.mean
        norms.append(errors.mean(0).norm())
    torch.testing.assert_close(total, 200 * x.mean(0) - errors.mean(0), rtol=1e-9, atol=1e-9)
    assert max(norms[100:]) <= 1.05 * max(norms[:100])  # it has settled
    assert (total / 200 - x.mean(0)).norm() <= 0.1 * x.mean(0).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_recovers_from_gradients_that_were_zero(dtype: torch.dtype) -> None:
    """This also holds if the first row, which an orthonormal basis of nothing would choose, stays zero."""
    sim = gw.Simulator(gw.memory.EF(PowerSGD()), MATRIX, 2)
    for _ in range(3):
        sent = sim.step(torch.zeros(2, MATRIX.d, dtype=dtype))
        assert not sent.own.any()
        assert not sent.mean.any()
    m = normal(30, 1) @ normal(1, 20, seed=1)
    m[0] = 0.0
    x = with_matrices(torch.stack([m, 2 * m])).to(dtype)
    # Rank one, so exact as soon as there is a direction at all.
    torch.testing.assert_close(sim.step(x).mean, x.mean(0), rtol=1e-5, atol=1e-6)


def test_a_direction_that_is_of_no_use_any_more_is_replaced() -> None:
    """If the gradient moves to columns where Q is zero, and its first row becomes zero, only one step is lost."""
    sim = gw.Simulator(PowerSGD(), MATRIX, 1)
    old, new = torch.zeros(2, 1, 30, 20, dtype=torch.float64)
    old[:, 1:, :10] = normal(29, 1) @ normal(1, 10, seed=1)
    new[:, 1:, 10:] = normal(29, 1, seed=2) @ normal(1, 10, seed=3)
    sim.step(with_matrices(old))
    assert not matrices(sim.step(with_matrices(new)).mean).any()
    torch.testing.assert_close(matrices(sim.step(with_matrices(new)).mean), new[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [2.0**-110, 2.0**90])
def test_it_is_as_good_for_tiny_and_for_huge_gradients(scale: float) -> None:
    """Q has the gradient's size, so without scaling the product of the two would vanish or overflow in float32."""
    plain, scaled = (gw.Simulator(PowerSGD(2), MATRIX, 2) for _ in range(2))
    for step in range(5):
        x = gradients(2, step, MATRIX, torch.float32)
        # float32, and five warm starts that feed its rounding back
        torch.testing.assert_close(scaled.step(x * scale).mean / scale, plain.step(x).mean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    for exchange in (PowerSGD(2), PermK(3)):
        sent = gw.Simulator(exchange, zoo.LAYOUT, 3).step(gradients(3, 0, dtype=dtype))
        assert sent.own.dtype == sent.mean.dtype == torch.float32


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "2", None])
def test_a_rank_that_is_none_is_refused(rank: object) -> None:
    with pytest.raises(ValueError, match="rank must be a whole number and at least 1, got"):
        PowerSGD(rank)  # type: ignore[arg-type]


# ---- Perm-K

SIZES = [(1, 6), (4, 20), (3, 20), (5, 3), (4, 5), (7, 1)]
"""n and d: a part of a worker's own, of equal and unequal size, and fewer coordinates than workers."""


def runs(n: int, x: torch.Tensor, count: int = DRAWS) -> tuple[torch.Tensor, torch.Tensor]:
    """Return own f[count, n, d] and mean f[count, d] of that many steps with the same x."""
    sim = gw.Simulator(PermK(n), gw.Layout(["x"], [(x.shape[-1],)]), n, seed=5, batched=True)
    rounds = [sim.step(x) for _ in range(count)]
    return torch.stack([sent.own for sent in rounds]), torch.stack([sent.mean for sent in rounds])


def within_5_sigma(draws: torch.Tensor, wanted: torch.Tensor) -> bool:
    # 1e-12: what does not vary at all is rounded in float64.
    return bool(((draws.mean(0) - wanted).abs() <= 5 * draws.std(0) / math.sqrt(len(draws)) + 1e-12).all())


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_permk_is_unbiased_and_its_variance_is_that_of_its_paper(n: int, d: int) -> None:
    """By Szlendak et al. 2021 omega = n - 1 for each worker, and A = B = 1 for all together, here with equality."""
    x = normal(n, d).float().double()  # as on the wire
    own, mean = runs(n, x)
    average = x.mean(0)
    assert within_5_sigma(own, x)
    assert within_5_sigma(mean, average)
    assert within_5_sigma((own - x).square().sum(-1), PermK(n).omega(d) * x.square().sum(-1))
    assert within_5_sigma((mean - average).square().sum(-1), x.square().sum() / n - average.square().sum())


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_permk_loses_nothing_where_all_workers_agree(n: int, d: int) -> None:
    x = normal(d).float().expand(n, -1)
    _, mean = runs(n, x, 20)
    assert torch.equal(mean, x[:1].expand(20, -1))


@pytest.mark.parametrize(("n", "d"), [*SIZES, (3, 0)])
def test_permk_parts_are_a_partition_and_as_small_as_can_be(n: int, d: int) -> None:
    k = math.ceil(d / n)
    sim = gw.Simulator(PermK(n), gw.Layout(["x"], [(d,)]), n)
    parts = [sim.step(torch.ones(n, d)).own != 0 for _ in range(10)]
    for part in parts:
        assert torch.equal(part.sum(0), torch.ones(d, dtype=torch.int64))
        assert part.sum(1).max() <= k
    assert sim.ledger.bytes == 10 * 4 * k
    if d > 4 and n > 1:
        assert not all(torch.equal(part, parts[0]) for part in parts)


@pytest.mark.parametrize("size", [1, 3])
def test_permk_is_refused_by_another_number_of_workers(size: int) -> None:
    sim = gw.Simulator(PermK(2), zoo.LAYOUT, size)
    with pytest.raises(ValueError, match=rf"PermK\(workers=2\) .* among 2 workers, and this run has {size}"):
        sim.step(gradients(size, 0))
    assert sim.ledger.bytes == 0


@pytest.mark.parametrize("workers", [0, -3, 2.0, True, "2", None])
def test_a_number_of_workers_that_is_none_is_refused(workers: object) -> None:
    with pytest.raises(ValueError, match="workers must be a whole number and at least 1, got"):
        PermK(workers)  # type: ignore[arg-type]


def test_permk_goes_with_diana_and_only_alone_with_error_feedback() -> None:
    gw.memory.DIANA(PermK(4), alpha=0.25).init(zoo.LAYOUT)
    gw.memory.EF(PermK(1))
    with pytest.raises(ValueError, match="contractive"):
        gw.memory.EF(PermK(2))


# ---- Int8AllReduce


def copies(n: int, x: torch.Tensor, count: int = DRAWS) -> torch.Tensor:
    """Return own f[count, n, d] of one step with x that many times side by side, with the scale of one."""
    sim = gw.Simulator(Int8AllReduce(n), gw.Layout(["x"], [(count, x.shape[-1])]), n, seed=5, batched=True)
    return sim.step(x.repeat(1, count)).own.view(n, count, -1).transpose(0, 1)


@pytest.mark.parametrize(("n", "d"), [(1, 6), (3, 20), (9, 5), (127, 2)])
@pytest.mark.parametrize("kind", ["normal", "uneven", "spike"])
def test_int8_is_unbiased_and_its_variance_is_that_of_dithering_all_vectors_as_one(n: int, d: int, kind: str) -> None:
    x = normal(n, d)
    x *= {"normal": 1.0, "uneven": torch.logspace(0, -3, n, dtype=x.dtype).unsqueeze(1), "spike": 1e-3}[kind]
    if kind == "spike":
        x[0, 0] = 1.0
    own = copies(n, x)
    # Fewer than 30 copies unlike the others obey no normal law: they may as well have been none, or twice as many.
    rare = (own != own.median(0).values).sum(0) < 30
    unseen = torch.where(rare, 30 / DRAWS * (own - own.mean(0)).abs().amax(), 0.0)
    assert bool(((own.mean(0) - x).abs() <= 5 * own.std(0) / math.sqrt(DRAWS) + unseen + 1e-12).all())
    errors = (own - x).square().sum((1, 2))
    assert errors.mean() <= Int8AllReduce(n).omega(d) * x.square().sum() + 5 * errors.std() / math.sqrt(DRAWS)


def test_int8_attains_a_quarter_of_its_step_squared() -> None:
    """For values halfway between two multiples of the step, except the largest: d n / (4 L^2) in units
    of its square.
    """
    n, d, levels = 4, 50, 127 // 4
    x = torch.full((n, d), 0.5 / levels, dtype=torch.float64)
    x[0, 0] = 1.0
    errors = (copies(n, x) - x).square().sum((1, 2))
    assert errors.mean() == pytest.approx((n * d - 1) / (4 * levels**2))


@pytest.mark.parametrize("n", [1, 2, 5, 63, 64, 127])
def test_int8_sums_never_overflow_and_take_a_byte_a_value(n: int) -> None:
    for batched in (False, True):
        sim = gw.Simulator(Int8AllReduce(n), gw.Layout(["x"], [(3,)]), n, batched=batched)
        sent = sim.step(torch.tensor([3.0e38, -3.0e38, 0.0]).expand(n, -1))
        torch.testing.assert_close(sent.mean, torch.tensor([3.0e38, -3.0e38, 0.0]))
        assert sim.ledger.bytes == 4 + 3


def test_int8_is_for_no_more_workers_than_it_was_made_for() -> None:
    sim = gw.Simulator(Int8AllReduce(2), zoo.LAYOUT, 3)
    with pytest.raises(ValueError, match=r"Int8AllReduce\(workers=2\) .* at most 2 workers, and this run has 3"):
        sim.step(gradients(3, 0))
    assert sim.ledger.bytes == 0
    with pytest.raises(ValueError, match="at most 127 workers' numbers, got workers=128"):
        Int8AllReduce(128)
    with pytest.raises(ValueError, match="workers must be a whole number and at least 1, got 0"):
        Int8AllReduce(0)


def test_int8_goes_with_diana_and_not_with_error_feedback() -> None:
    gw.memory.DIANA(Int8AllReduce(4)).init(zoo.LAYOUT)
    with pytest.raises(ValueError, match="contractive"):
        gw.memory.EF(Int8AllReduce(2))


# ---- the permutation


def splitmix(key: int, count: int) -> list[int]:
    """The generator as published, in Python's integers."""
    mask, out = 2**64 - 1, []
    for _ in range(count):
        key = (key + 0x9E3779B97F4A7C15) & mask
        z = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append((z ^ (z >> 31)) >> 33)
    return out


@pytest.mark.parametrize("key", [0, 1, 2**63 - 1, 123456789])
@pytest.mark.parametrize("d", [0, 1, 2, 1000])
def test_the_permutation_is_the_order_of_hashed_counters(key: int, d: int) -> None:
    hashes = splitmix(key, d)
    assert permutation(torch.tensor(key), d).tolist() == sorted(range(d), key=lambda i: hashes[i])


def test_the_permutation_of_a_key_is_a_promise() -> None:
    """Ranks with other versions of torch or other devices must agree. The known values are SplitMix64's first for seed
    0.
    """
    known = [0xE220A839, 0x6E789E6A, 0x06C45D18, 0xF88BB8A8, 0x1B39896A, 0x53CB9F0C, 0x2C829ABE, 0xC584133A]
    assert [value << 1 for value in splitmix(0, 8)] == [value & ~1 for value in known]
    assert permutation(torch.tensor(0), 8).tolist() == [2, 4, 6, 5, 1, 7, 0, 3]


def test_permutations_are_uniform() -> None:
    """All 24 orders of four occur within 5 sigma of 24000 / 24."""
    counts: dict[tuple[int, ...], int] = {}
    for key in range(24000):
        order = tuple(permutation(torch.tensor(key), 4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert all(abs(count - 1000) <= 5 * math.sqrt(1000 * 23 / 24) for count in counts.values())
