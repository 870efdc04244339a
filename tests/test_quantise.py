"""Operators that round, skip and threshold: their levels, exact variances, bits, and messages of different lengths."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradwire as gw
from gradwire import kernels
from gradwire.compress import (
    Bernoulli,
    Compressor,
    Dithering,
    HardThreshold,
    NaturalDithering,
    ScaledSign,
    Ternary,
    norms,
)
from gradwire.compress.protocol import Direct, Ragged
from gradwire.exchange import Gathered
from gradwire.memory import EF
from gradwire.wire import levels, trits

ROUNDING = [
    Dithering(1),
    Dithering(5, 1.0),
    Dithering(7, "inf"),
    Dithering(1 << 23, 3.0),
    NaturalDithering(1, 1.5),
    NaturalDithering(3),
    NaturalDithering(127, "inf"),
    Ternary(),
    Ternary(2.0),
]
SKIPPING = [Bernoulli(0.5), Bernoulli(0.5, unbiased=False), HardThreshold(0.3), HardThreshold(100.0)]
ALL = [*ROUNDING, ScaledSign(), *SKIPPING]
NORMS: list[norms.Norm] = [1.0, 1.5, 2.0, 4.0, "inf"]
DRAWS = 20_000


def turn(step: int = 0) -> gw.Turn:
    return gw.Turn(0, 1, step, gw.Layout(["x"], [(1,)]), seed=5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def p_norm(x: torch.Tensor, p: norms.Norm) -> torch.Tensor:
    return torch.linalg.vector_norm(x, float(p), -1, keepdim=True)


def shapes_of_vectors(d: int) -> torch.Tensor:
    """Return f64[m, d] that reach the bounds: equal values, spikes on a floor, few of many, heavy and light tails."""
    floors = torch.logspace(-3, 0, 40, dtype=torch.float64).unsqueeze(-1).expand(-1, d).clone()
    floors[:, 0] = 1.0
    few = torch.ones(d, d, dtype=torch.float64).tril()
    return torch.cat([torch.ones(1, d).double(), floors, few, normal(50, d), normal(50, d) ** 5]).abs()


# What is applied equals what is decoded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0,), (1,), (37,), (3, 37), (2, 3, 10), (3, 0)])
@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_apply_is_decode_of_encode_bit_for_bit(compressor: Compressor, shape: tuple[int, ...], dtype: torch.dtype):
    assert isinstance(compressor, Direct)
    for step in range(4):
        x = normal(*shape, seed=step).to(dtype)
        wire = compressor.encode(x, turn(step))
        assert torch.equal(wire, compressor.encode(x, turn(step)))
        decoded = compressor.decode(wire, shape[-1]).dense()
        applied = compressor.apply(x, turn(step)).dense()
        assert decoded.dtype == torch.float32
        assert applied.dtype == dtype
        assert torch.equal(applied, decoded.to(dtype))
        assert torch.equal(1 / applied, 1 / decoded.to(dtype))  # zeros have one sign


@pytest.mark.parametrize("compressor", [*ROUNDING, Bernoulli(0.5)], ids=repr)
def test_rows_draw_independently(compressor: Compressor) -> None:
    x = normal(50).expand(64, -1)
    decoded = compressor.decode(compressor.encode(x, turn()), 50).dense()
    assert len(decoded.unique(dim=0)) > 1


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-42, 3e37, 3.4e38])
def test_extreme_magnitudes_stay_finite(compressor: Compressor, size: float) -> None:
    x = torch.full((40,), size) * normal(40).sign().float()
    decoded = compressor.decode(compressor.encode(x, turn()), 40).dense()
    assert bool(decoded.isfinite().all())
    assert size > 0 or not decoded.any()
    beyond = compressor.decode(compressor.encode(x.double() * 1e30, turn()), 40).dense()
    assert bool(beyond.isfinite().all())


# Levels


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("s", [1, 2, 5, 64])
def test_dithering_says_neighbouring_multiples_of_the_norm_over_s(s: int, p: norms.Norm) -> None:
    x = normal(200)
    decoded = Dithering(s, p).apply(x, turn()).dense()
    steps = decoded / norms.scale(x, p).double() * s
    # The quotient and the product are float32, each off by up to 2^-24.
    torch.testing.assert_close(steps, steps.round(), rtol=2**-22, atol=0)
    assert bool((steps - x / norms.scale(x, p) * s).abs().le(1 + 2**-22 * s).all())
    assert bool((decoded * x >= 0).all())


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("s", [1, 2, 5, 100])
def test_natural_dithering_says_neighbouring_powers_of_two_of_the_norm(s: int, p: norms.Norm) -> None:
    x = normal(200)
    scale = norms.scale(x, p).double()
    size = (NaturalDithering(s, p).apply(x, turn()).dense() / scale).abs()
    assert set(size.tolist()) <= {0.0, *(2.0**-k for k in range(s))}
    share = (x / scale).abs()
    above = share >= 2.0 ** (1 - s)
    assert bool((size[above] <= 2 * share[above]).all())
    assert bool((size[above] >= share[above] / 2).all())
    assert bool((size[~above] <= 2.0 ** (1 - s)).all())


def test_natural_dithering_is_natural_compression_where_levels_suffice() -> None:
    """With scale 1 and many levels the two powers of two around a value are the same, and so are the probabilities."""
    x = torch.full((DRAWS,), 0.3, dtype=torch.float64)
    x[0] = 1.0
    decoded = NaturalDithering(30, "inf").apply(x, turn()).dense()[1:]
    assert set(decoded.tolist()) == {0.25, 0.5}
    # Up with probability 2 * 0.6 - 1 = 0.2; five sigma.
    assert abs((decoded == 0.5).double().mean() - 0.2) < 5 * math.sqrt(0.2 * 0.8 / DRAWS)


@pytest.mark.parametrize("p", NORMS)
def test_the_scale_is_the_norm_rounded_up(p: norms.Norm) -> None:
    x = normal(100, 30) * torch.logspace(-45, 36, 100, dtype=torch.float64).unsqueeze(-1)
    x = x.float()
    scale, exact = norms.scale(x, p).double(), p_norm(x.double(), p)
    # Float64's own rounding of norms is 2^-50 at most here, float32's a unit in its last place: 2^-23, or 2^-149.
    assert bool((scale >= exact * (1 - 2**-50)).all())
    assert bool((scale <= exact * (1 + 2**-22) + 2.0**-149).all())
    assert bool((levels.ratios(x, scale.float()) <= 1).all())


def test_norms_neither_overflow_nor_vanish() -> None:
    for p in (1.0, 2.0, 40.0, 1e6, "inf"):
        assert norms.scale(torch.full((3,), 1e-42), p).item() > 0
        assert math.isfinite(norms.scale(torch.full((3,), 3e38), p).item())
        assert levels.ratios(torch.zeros(3), norms.scale(torch.zeros(3), p)).tolist() == [0.0, 0.0, 0.0]


# Unbiased, and by how much


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("share", [1e-7, 1e-3, 0.37, 0.9999])
def test_coins_are_fair_at_every_magnitude(share: float, p: norms.Norm) -> None:
    """Of a million equal small values beside a large one, as many are sent as their share of the sent scale says."""
    x = torch.full((1_000_000,), share, dtype=torch.float64)
    x[0] = 1.0
    wanted = levels.ratios(x, norms.scale(x, p))[1].item()
    spoken = Ternary(p).apply(x, turn()).dense()[1:].count_nonzero().item() / (len(x) - 1)
    # Five sigma, and 30 of a million for what is so rare that no normal law holds.
    assert abs(spoken - wanted) <= 5 * math.sqrt(wanted * (1 - wanted) / len(x)) + 30 / len(x)


def test_coins_fall_more_finely_than_float32s() -> None:
    """Each of 10^8 equal values is 10^-4 of their 2-norm: random numbers in steps of 2^-24 would be off by up to 0.06
    %.
    """
    uniforms = kernels.uniforms(turn().key(shared=False), (1000,), torch.float64)
    assert bool((uniforms * 2**24 % 1 > 0).any())
    assert bool(((uniforms >= 0) & (uniforms < 1)).all())


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("make", [Ternary, lambda p: Dithering(1, p), lambda p: NaturalDithering(1, p)])
def test_the_second_moment_of_one_level_is_the_product_of_two_norms(make, p: norms.Norm) -> None:
    """E |Q(x)|^2 = |x|_1 |x|_p: every |Q_i|^2 is |x|_p^2 with probability |x_i| / |x|_p."""
    x = normal(30)
    squares = make(p).apply(x.expand(DRAWS, -1), turn()).dense().square().sum(-1)
    exact = (p_norm(x, 1.0) * p_norm(x, p)).item()
    assert abs(squares.mean() - exact) <= 5 * squares.std() / math.sqrt(DRAWS) + 2**-22 * exact


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("d", [1, 2, 10, 60])
@pytest.mark.parametrize("s", [1, 2, 3, 8, 50])
def test_dithering_varies_by_omega_at_most(s: int, d: int, p: norms.Norm) -> None:
    """In exact expectation the variance is (|x|_p / s)^2 times the sum of (u - l)(l + 1 - u)."""
    x = shapes_of_vectors(d)
    u = x / p_norm(x, p) * s
    part = u - u.floor()
    ratio = ((p_norm(x, p) / s) ** 2 * part * (1 - part)).sum(-1) / x.square().sum(-1)
    omega = Dithering(s, p).omega(d)
    assert ratio.max() <= omega + 1e-9
    root = d ** (1 / min(float(p), 2))
    assert omega <= root / s * min(1, root / s)  # Horváth et al. 2019, and Alistarh et al. 2017, Lemma 3.1, at p = 2


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("d", [1, 2, 10, 60])
@pytest.mark.parametrize("s", [1, 2, 3, 8, 50])
def test_natural_dithering_varies_by_omega_at_most(s: int, d: int, p: norms.Norm) -> None:
    x = shapes_of_vectors(d)
    u = x / p_norm(x, p)
    t = 2.0 ** (1 - s)
    low = torch.where(u < t, 0.0, 2.0 ** u.clamp(min=t).log2().floor())
    high = torch.where(u < t, t, 2 * low)
    ratio = (p_norm(x, p) ** 2 * (u - low) * (high - u)).clamp(min=0).sum(-1) / x.square().sum(-1)
    omega = NaturalDithering(s, p).omega(d)
    assert ratio.max() <= omega + 1e-9
    root = d ** (1 / min(float(p), 2))
    assert omega <= 1 / 8 + root * t * min(1, root * t)  # Horváth et al. 2019, Theorem 7


@pytest.mark.parametrize(("p", "omega"), [("inf", (math.sqrt(60) - 1) / 2), (2.0, math.sqrt(60) - 1), (1.0, 59.0)])
def test_ternary_attains_omega(p: norms.Norm, omega: float) -> None:
    """For p = 1 and 2 equal values are the worst case; for p = inf it is one of 1 and the others of 1
    / (1 + sqrt(d)).
    """
    assert Ternary(p).omega(60) == pytest.approx(omega)
    assert Dithering(1, p).omega(60) == NaturalDithering(1, p).omega(60) == Ternary(p).omega(60)
    x = torch.ones(60, dtype=torch.float64)
    x[1:] = 1 / (1 + math.sqrt(60)) if p == "inf" else 1.0
    exact = (p_norm(x, 1.0) * p_norm(x, p) / x.square().sum() - 1).item()
    assert exact == pytest.approx(omega)


@pytest.mark.parametrize(("s", "d"), [(1, 4), (3, 36), (10, 400)])
def test_qsgd_attains_omega_half_way_between_levels(s: int, d: int) -> None:
    """For equal values with u = s / sqrt(d) = 1 / 2 the variance is d / (4 s^2), a quarter of the paper's d / s^2."""
    x = torch.ones(d, dtype=torch.float64)
    decoded = Dithering(s).apply(x.expand(2000, -1), turn()).dense()
    errors = (decoded - x).square().sum(-1) / d
    assert Dithering(s).omega(d) == pytest.approx(d / (4 * s**2))
    # The same for every draw: 0 and 1 / s are equally far. The scale is off by 2^-24.
    torch.testing.assert_close(errors, torch.full_like(errors, d / (4 * s**2)), rtol=1e-6, atol=0)


def test_scaled_sign_loses_what_the_identity_says() -> None:
    """|C(x) - x|^2 = |x|_2^2 - |x|_1^2 / d, zeros included; it keeps 2 / pi of a normal vector and 1 / d of a spike."""
    for x in (normal(100_000), torch.eye(7)[3].double(), torch.tensor([0.0, 3.0, 0.0, -1.0]).double()):
        d = len(x)
        error = (ScaledSign().apply(x, turn()).dense() - x).square().sum()
        torch.testing.assert_close(error, x.square().sum() - x.abs().sum() ** 2 / d, rtol=1e-6, atol=1e-12)
    spike = torch.eye(7)[3]
    assert (ScaledSign().apply(spike, turn()).dense() - spike).square().sum() == pytest.approx(
        1 - ScaledSign().delta(7)
    )
    x = normal(100_000)
    # |x|_1^2 / (d |x|_2^2) has a standard deviation of about 0.5 / sqrt(d) = 0.0016.
    assert x.abs().sum() ** 2 / (len(x) * x.square().sum()) == pytest.approx(2 / math.pi, abs=0.008)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_bernoulli_says_all_or_nothing(p: float) -> None:
    x = normal(8)
    for unbiased in (True, False):
        decoded = Bernoulli(p, unbiased).apply(x.expand(DRAWS, -1), turn()).dense()
        spoken = decoded.any(-1)
        torch.testing.assert_close(decoded[spoken], (x / p if unbiased else x).expand(int(spoken.sum()), -1))
        assert abs(spoken.double().mean() - p) <= 5 * math.sqrt(p * (1 - p) / DRAWS)
    assert Bernoulli(p).omega(8) == 1 / p - 1
    assert Bernoulli(p, unbiased=False).delta(8) == p
    assert Bernoulli(p, unbiased=False).omega(8) is None


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 100), st.floats(1e-3, 3.0), st.integers(0, 1000))
def test_a_threshold_loses_less_than_its_level_everywhere(d: int, level: float, seed: int) -> None:
    x = normal(d, seed=seed)
    decoded = HardThreshold(level).apply(x, turn()).dense()
    assert (decoded - x).square().sum() <= d * level**2
    assert (decoded - x).square().sum() <= x.square().sum()
    assert torch.equal(decoded != 0, x.abs() >= level)
    assert HardThreshold(level).delta(d) == 0.0


# Bits


def test_bits_a_value() -> None:
    """A million values and their scale take what the papers count, to the byte."""
    d = 1_000_000
    assert ScaledSign().nbytes(d) == 4 + d // 8
    assert Ternary().nbytes(d) == 4 + d // 5
    for s in (1, 2, 3, 4, 7, 8, 127, 128, 1 << 23):
        for compressor in (Dithering(s), NaturalDithering(min(s, 127))):
            width = math.ceil(math.log2(2 * compressor.s + 1))
            assert compressor.nbytes(d) == 4 + d * width // 8
            assert compressor.encode(normal(d // 1000), turn()).numel() == 4 + d // 1000 * width // 8


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=40))
def test_trits_come_back(numbers: list[int]) -> None:
    x = torch.tensor([numbers, numbers[::-1]], dtype=torch.uint8)
    wire = trits.pack(x)
    assert wire.shape == (2, trits.nbytes(len(numbers)))
    assert torch.equal(trits.unpack(wire, len(numbers)), x)


@settings(deadline=None)
@given(st.integers(1, 1 << 23), st.integers(0, 20), st.integers(0, 1000))
def test_levels_come_back(s: int, d: int, seed: int) -> None:
    x = torch.randint(-s, s + 1, (3, d), generator=torch.Generator().manual_seed(seed))
    scale = torch.rand(3, 1)
    wire = levels.encode(scale, x, s)
    assert wire.shape == (3, levels.nbytes(s, d))
    assert all(torch.equal(a, b) for a, b in zip(levels.decode(wire, s, d), (scale, x), strict=True))


def test_bytes_that_no_encoder_makes_are_refused() -> None:
    with pytest.raises(ValueError, match="below 243"):
        trits.unpack(torch.tensor([5, 243], dtype=torch.uint8), 10)
    with pytest.raises(ValueError, match="not 4 levels between -1 and 1"):
        levels.decode(torch.full((5,), 255, dtype=torch.uint8), 1, 4)
    with pytest.raises(ValueError, match="begins with 0 or 1, got 7"):
        Bernoulli(0.5).decode(torch.tensor([7], dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match="keep 200 values out of 4"):
        HardThreshold(1.0).decode(torch.tensor([200, 0, 0, 0], dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match="take 13 bytes, got 12"):
        HardThreshold(1.0).decode(torch.tensor([2, *[0] * 11], dtype=torch.uint8), 4)


# Messages of uneven length


def test_a_ragged_message_is_as_long_as_it_needs_and_zeros_may_follow() -> None:
    x = torch.tensor([0.1, -2.0, 0.0, 3.0, 0.2])
    silent, spoken = (HardThreshold(level).encode(x, turn()) for level in (9.0, 1.0))
    assert (len(silent), len(spoken)) == (4, 4 + 1 + 8)
    for wire in (silent, spoken):
        c = HardThreshold(1.0)
        for zeros in range(c.nbytes(5) - len(wire) + 1):
            longer = torch.nn.functional.pad(wire, (0, zeros))
            assert torch.equal(c.decode(longer, 5).dense(), c.decode(wire, 5).dense())
            assert c.length(longer, 5) == len(wire)
        with pytest.raises(ValueError, match="take"):
            c.decode(torch.nn.functional.pad(wire, (0, c.nbytes(5) + 1 - len(wire))), 5)
    coin = Bernoulli(0.5)
    lengths = {len(coin.encode(x, turn(step))) for step in range(20)}
    assert lengths == {1, 1 + 20}


def test_a_threshold_decodes_rows_of_different_counts() -> None:
    """The rows are gathered from workers that kept 3, 0, 1 and 3 values, or encoded together with padding."""
    x = torch.tensor([[3.0, 0, 4, -5], [0.1, 0, 0, 0], [0, 0, 0, 7.0], [-1.0, 1, 1, 0]])
    c = HardThreshold(1.0)
    wires = [c.encode(row, turn()) for row in x]
    longest = max(map(len, wires))
    gathered = torch.stack([torch.nn.functional.pad(wire, (0, longest - len(wire))) for wire in wires])
    decoded = c.decode(gathered, 4)
    assert decoded.indices.shape == (4, 3)
    want = x.where(x.abs() >= 1, 0.0)
    assert torch.equal(decoded.dense(), want)
    assert c.length(gathered, 4) == longest
    together = c.encode(x, turn())
    assert together.shape == (4, longest)
    assert torch.equal(c.decode(together, 4).dense(), want)
    assert torch.equal(c.decode(together.view(2, 2, -1), 4).dense(), want.view(2, 2, 4))


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("compressor", SKIPPING, ids=repr)
def test_workers_with_messages_of_different_length_obey_the_law(compressor: Compressor, batched: bool, n: int) -> None:
    layout = gw.Layout(["a", "b"], [(30,), (7, 3)])
    sim = gw.Simulator(Gathered(compressor), layout, n, seed=2, batched=batched)
    assert isinstance(compressor, Ragged)
    for step in range(6):
        # From worker to worker ten times as large, so that thresholds keep all, some and nothing.
        xs = normal(n, layout.d, seed=step) * torch.logspace(-2, 2, n, dtype=torch.float64).unsqueeze(-1)
        sim.ledger.clear()
        sent = sim.step(xs)
        # Averaged in float64 in both: what is left is the rounding of another order of adding.
        torch.testing.assert_close(sent.mean, sent.own.mean(0), rtol=1e-12, atol=1e-12)
        longest = 1 + 4 * layout.d if sent.own.any() else 1
        if isinstance(compressor, HardThreshold):
            counts = (xs.abs() >= compressor.level).sum(-1)
            longest = max(len(compressor.encode(x, turn())) for x in xs)
            assert torch.equal((sent.own != 0).sum(-1), counts)
        assert sim.ledger.bytes == 8 + longest


@pytest.mark.parametrize("compressor", [*ROUNDING, ScaledSign()], ids=repr)
def test_a_batched_laboratory_counts_the_bytes_it_does_not_make(compressor: Compressor) -> None:
    layout = gw.Layout(["a"], [(51,)])
    sims = [gw.Simulator(Gathered(compressor), layout, 4, batched=batched) for batched in (False, True)]
    for sim in sims:
        sent = sim.step(normal(4, 51))
        torch.testing.assert_close(sent.mean, sent.own.mean(0), rtol=1e-12, atol=1e-12)
    assert sims[0].ledger.bytes == sims[1].ledger.bytes == compressor.nbytes(51)
    assert sims[0].ledger.traffic == sims[1].ledger.traffic


def test_error_feedback_says_in_the_end_what_a_threshold_holds_back() -> None:
    """Under EF a threshold loses nothing: after many steps the average of what was sent is the average
    of the inputs.
    """
    layout = gw.Layout(["a"], [(40,)])
    sim = gw.Simulator(EF(Gathered(HardThreshold(1.0))), layout, 3)
    xs, steps = normal(3, 40) * 0.1, 200
    total = sum(sim.step(xs).mean for _ in range(steps))
    # Every error stays below the level.
    assert (total / steps - xs.mean(0)).abs().max() <= 1.0 / steps


# Construction


@pytest.mark.parametrize("make", [lambda p: Dithering(2, p), lambda p: NaturalDithering(2, p), Ternary])
def test_a_norm_is_at_least_one_or_inf(make) -> None:
    for p in (0.5, 0, -1, float("nan"), -math.inf, True, "2", None):
        with pytest.raises(ValueError, match=r"p must be a number of at least 1 or 'inf', got"):
            make(p)
    assert make(math.inf) == make("inf")
    assert make(2) == make(2.0)
    assert "p='inf'" in repr(make(math.inf))
    assert "p=2.0" in repr(make(2))


@pytest.mark.parametrize(("make", "most"), [(Dithering, 1 << 23), (NaturalDithering, 127)])
def test_levels_are_counted_in_whole_numbers(make: type, most: int) -> None:
    make(most)
    for s in (0, -1, 1.0, True, "3", None, most + 1):
        with pytest.raises(ValueError, match=f"s must be a whole number from 1 to {most}, got"):
            make(s)


def test_parameters_out_of_range_are_refused() -> None:
    for p in (0, 1.5, float("nan"), True, None):
        with pytest.raises(ValueError, match=r"p must lie in \(0, 1\], got"):
            Bernoulli(p)
    with pytest.raises(ValueError, match="unbiased must be true or false, got 'no'"):
        Bernoulli(0.5, "no")  # type: ignore[arg-type]
    for level in (0, -1.0, math.inf, float("nan"), True, "1"):
        with pytest.raises(ValueError, match="level must be a positive finite number, got"):
            HardThreshold(level)
    assert repr(HardThreshold(1)) == "HardThreshold(level=1.0)"
