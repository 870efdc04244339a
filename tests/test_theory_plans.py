"""Plans: what the theorems' formulas say, their special cases, and what they refuse."""

from __future__ import annotations

import doctest
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import gradwire as gw
from gradwire.lab.convex import theory
from gradwire.lab.convex.theory import METHODS, Constants, Gap, plan

SIX = Constants(L=2.0, L_i=[1.0, 2.0, 3.0, 4.0, 1.0, 7.0], mu=0.05, mu_i=[0.05, 0.1, 0.05, 0.2, 0.05, 0.07])
WITHOUT_CONVEXITY = ["ef21", "ef_bv", "marina", "dasha", "ef21_sgdm"]
UNBIASED = [name for name in METHODS if name not in ("ef21", "ef21_sgdm", "locodl")]


def square(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def told(method: str, omega: float = 3.0, delta: float = 0.25) -> dict[str, float]:
    """Return what a method must be told of its operator."""
    return {"delta": delta} if method in ("ef21", "ef21_sgdm") else {"omega": omega, "delta": delta}


@pytest.mark.parametrize("method", UNBIASED)
def test_exact_operators_give_gradient_descent(method: str) -> None:
    exact = plan(method, SIX, **told(method, omega=0.0))
    assert exact.step == pytest.approx(1 / SIX.L)
    assert exact.rate == pytest.approx(1 - SIX.mu / SIX.L)


def test_iteration_complexities() -> None:
    """Shulgin and Richtárik 2022, Table 1, with kappa = L / mu, kappa_max = L_max / mu and constants from T1 to T6."""
    kappa, kappa_max, n, omega, delta = SIX.L / SIX.mu, SIX.L_max / SIX.mu, SIX.n, 3.0, 0.25
    complexity = {
        "dcgd": kappa + 2 * omega / n * kappa_max,
        "fixed": kappa + 2 * omega / n * kappa_max,
        "star": kappa + omega * (1 - delta) / n * kappa_max,
        "diana": max(kappa + 6 * omega / n * kappa_max, 2 * (1 + omega)),
        "generalised_diana": max(kappa + 6 * omega * (1 - delta) / n * kappa_max, 2 * (1 + omega * (1 - delta))),
        "rand_diana": max(kappa + 6 * omega / n * kappa_max, 2 * (1 + omega)),
        "gdci": kappa + 2 * omega / n * (kappa_max - 1),
        "vr_gdci": max(kappa + 6 * omega / n * (kappa_max - 1), 2 * (1 + omega)),
    }
    assert {m: 1 / (1 - plan(m, SIX, **told(m)).rate) for m in complexity} == pytest.approx(complexity)
    many = Constants(1.0, [1.0] * 1000, 0.5)
    assert plan("diana", many, omega=9.0).rate == 1 - 1 / (2 * (1 + 9))


def test_steps_and_weights_of_the_methods_for_values() -> None:
    """They are those of the papers, with alpha = delta: EF21, EF-BV, MARINA, DASHA, EF21-SGDM."""
    L, rms, n, mu, delta, omega = SIX.L, math.sqrt(80 / 6), 6, SIX.mu, 0.25, 3.0
    flat = replace(SIX, mu=0.0)
    theta = 1 - math.sqrt(1 - delta)
    beta = (1 - delta) / theta
    ef21 = plan("ef21", flat, delta=delta)
    assert (ef21.step, ef21.lyapunov) == (
        pytest.approx(1 / (L + rms * math.sqrt(beta / theta))),
        Gap(ef21.step / theta / 2),
    )
    ef21 = plan("ef21", SIX, delta=delta)
    assert ef21.step == pytest.approx(min(1 / (L + rms * math.sqrt(2 * beta / theta)), theta / (2 * mu)))
    assert ef21.lyapunov == Gap(ef21.step / theta)

    eta, lam, nu = 0.5, 0.2, 0.6
    ef_bv = plan("ef_bv", SIX, omega=omega, eta=eta, lam=lam, nu=nu)
    r, r_av = (1 - lam + lam * eta) ** 2 + lam**2 * omega, (1 - nu + nu * eta) ** 2 + nu**2 * omega / n
    s = math.sqrt((1 + r) / (2 * r)) - 1
    assert ef_bv.step == pytest.approx(1 / (L + rms * math.sqrt(r_av / r) / s))
    assert ef_bv.rate == pytest.approx(max(1 - ef_bv.step * mu, (1 + r) / 2))
    assert ef_bv.lyapunov.each == pytest.approx(ef_bv.step / (2 * s * (1 + s) * r / r_av))
    best = plan("ef_bv", SIX, omega=omega, eta=eta)
    assert (best.lam, best.nu) == pytest.approx(
        ((1 - eta) / ((1 - eta) ** 2 + omega), (1 - eta) / ((1 - eta) ** 2 + 0.5))
    )

    p = 0.2
    marina = plan("marina", flat, omega=omega, p=p)
    assert marina.step == pytest.approx(1 / (L + rms * math.sqrt((1 - p) * omega / (p * n))))
    assert marina.lyapunov == Gap(mean=marina.step / p / 2)
    dasha = plan("dasha", flat, omega=omega)
    assert dasha.step == pytest.approx(1 / (L + rms * math.sqrt(16 * omega * (2 * omega + 1) / n)))
    assert dasha.lyapunov.mean == pytest.approx(dasha.step * (2 * omega + 1))
    assert dasha.lyapunov.each == pytest.approx(2 * dasha.step * omega / n)
    assert plan("ef21_sgdm", SIX, delta=0.9, eta=0.1).step == pytest.approx(min(0.9 / (20 * rms), 0.1 / (7 * L)))


def test_rounds_are_enough_and_not_too_many() -> None:
    chosen = plan("diana", SIX, omega=3.0)
    assert chosen.rate ** chosen.rounds(1e-6) == pytest.approx(1e-6)
    assert plan("diana", Constants(1.0, [1.0], 1.0), omega=0.0).rounds(1e-6) == 1


def test_weights_are_the_boost_times_their_infimum() -> None:
    """M' is 2 / (n alpha) for DIANA and 2 omega / (n p) for Rand-DIANA."""
    assert plan("diana", SIX, omega=3.0, alpha=0.2, boost=1.5).weight == pytest.approx(1.5 * 2 / (6 * 0.2))
    assert plan("rand_diana", SIX, omega=3.0, p=0.2, boost=1.5).weight == pytest.approx(1.5 * 2 * 3 / (6 * 0.2))


def test_relatives() -> None:
    diana = plan("diana", SIX, omega=3.0)
    assert diana.alpha == 1 / 4
    rand = plan("rand_diana", SIX, omega=3.0)
    assert (rand.p, rand.step, rand.rate) == pytest.approx((1 / 4, diana.step, diana.rate))
    assert plan("ef_bv", SIX, omega=3.0).lam == diana.alpha
    assert plan("ef_bv", SIX, omega=3.0).nu == pytest.approx(1 / (1 + 3 / 6))
    deterministic = plan("ef_bv", SIX, omega=0.0, eta=math.sqrt(1 - 0.25))
    assert (deterministic.lam, deterministic.nu, plan("ef21", SIX, delta=0.25).alpha) == (1, 1, 1)
    induced = plan("diana", SIX, omega=3.0 * 0.75)
    general = plan("generalised_diana", SIX, omega=3.0, delta=0.25)
    assert (general.step, general.rate, general.alpha) == (induced.step, induced.rate, induced.alpha)
    assert plan("dcgd", SIX, omega=3.0).step == plan("fixed", SIX, omega=3.0).step
    assert plan("marina", SIX, omega=3.0).p == 1 / 4
    assert plan("dasha", SIX, omega=3.0).alpha == 1 / 7


@pytest.mark.parametrize(("method", "factor"), [("gdci", 2), ("vr_gdci", 6)])
def test_largest_eta_leaves_one_gamma(method: str, factor: int) -> None:
    chosen = plan(method, SIX, omega=3.0)
    assert chosen.gamma * SIX.mu == 1
    assert chosen.step == pytest.approx(1 / (SIX.L + factor * 3 / SIX.n * (SIX.L_max - SIX.mu)))
    smaller = plan(method, SIX, omega=3.0, eta=chosen.eta / 2)
    assert smaller.gamma > chosen.gamma
    assert smaller.rate < 1 - smaller.eta
    assert plan(method, SIX, omega=3.0, eta=chosen.eta / 2, gamma=1 / SIX.mu).rate == 1 - chosen.eta / 2


def test_operators_of_each_worker() -> None:
    """The worst worker has the largest omega_i L_i, not the largest of either."""
    assert plan("dcgd", SIX, omega=[9, 9, 3, 3, 9, 1]).step == pytest.approx(1 / (2 + 2 / 6 * 9 * 2))
    assert plan("star", SIX, omega=3.0, delta=[0, 0, 0, 0, 0, 1]).step == pytest.approx(1 / (2 + 3 * 4 / 6))
    for method in ("dcgd", "diana", "rand_diana", "gdci", "vr_gdci"):
        assert plan(method, SIX, omega=[3.0] * 6) == plan(method, SIX, omega=3.0)


@pytest.mark.parametrize(
    ("method", "mu"), [*itertools.product(METHODS, [0.05, 2.0]), *itertools.product(WITHOUT_CONVEXITY, [0.0])]
)
def test_harder_problems_and_coarser_operators_take_shorter_steps(method: str, mu: float) -> None:
    constants = replace(SIX, mu=mu)
    step = plan(method, constants, **told(method)).step
    assert 0 < step <= 1 / SIX.L
    coarser = [told(method, omega=5.0), told(method, delta=0.1)]
    longer_list = Constants(SIX.L, [*SIX.L_i, *SIX.L_i], mu, [*SIX.mu_i, *SIX.mu_i])
    steeper = Constants(SIX.L, [*SIX.L_i[:5], 9.0], mu, SIX.mu_i)
    rounding = 1 + 1e-12
    assert all(plan(method, constants, **operator).step <= step * rounding for operator in coarser)
    assert plan(method, steeper, **told(method)).step <= step * rounding
    assert plan(method, longer_list, **told(method)).step >= step / rounding
    assert plan(method, constants, conservative=True, **told(method)).step <= step * rounding


def test_conservative_is_the_form_with_the_largest_constant_alone() -> None:
    assert plan("dcgd", SIX, omega=3.0, conservative=True).step == pytest.approx(1 / (7 * (1 + 2 * 3 / 6)))
    assert plan("rand_diana", SIX, omega=3.0, conservative=True).step == pytest.approx(1 / (7 * (1 + 6 * 3 / 6)))


def test_neighbourhoods() -> None:
    """T1: (2 gamma / mu) (1/n^2) sum omega_i |grad f_i(x*) - h_i|^2. T5: (2 eta omega / n) (1/n) sum |T_i(x*)|^2."""
    rng = torch.Generator().manual_seed(0)
    best, gradients = torch.randn(8, generator=rng), torch.randn(3, 8, generator=rng)
    constants, h = Constants(2.0, [1.0, 2.0, 7.0], mu=0.05, mu_i=[0.05] * 3), gradients + 1.0
    fixed = plan("fixed", constants, omega=[1.0, 2.0, 3.0])
    assert fixed.neighbourhood(best, gradients, h) == pytest.approx(2 * fixed.step / constants.mu * 6 * 8 / 9)
    assert fixed.neighbourhood(best, gradients, gradients) == 0
    dcgd = plan("dcgd", constants, omega=3.0)
    assert dcgd.neighbourhood(best, gradients) == pytest.approx(
        2 * dcgd.step / constants.mu * 3 * square(gradients).sum() / 9
    )
    gdci = plan("gdci", constants, omega=3.0)
    images = square(best - gdci.gamma * gradients).sum()
    assert gdci.neighbourhood(best, gradients) == pytest.approx(2 * gdci.eta * 3 * images / 9)
    for method in set(METHODS) - {"fixed", "dcgd", "gdci"}:
        assert plan(method, constants, **told(method)).neighbourhood(best, gradients) == 0


def test_spread_is_the_class_of_ef_bv() -> None:
    assert theory.spread(gw.compress.RandK(0.25), 8) == (0, 3)
    assert theory.spread(gw.compress.Identity(), 8) == (0, 0)
    assert theory.spread(gw.compress.Scaled(gw.compress.RandK(0.25)), 8) == pytest.approx((3 / 4, 3 / 16))
    assert theory.spread(gw.compress.TopK(0.25), 8, deterministic=True) == pytest.approx((math.sqrt(0.75), 0))
    assert theory.spread(gw.compress.TopK(0.25), 8) == pytest.approx((math.sqrt(0.75), 0.75))


def test_spread_of_scaled_is_exact() -> None:
    """Bias and variance of Q / (1 + omega), computed over all supports, are equalities."""
    x = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    y = torch.diag(x)
    eta, omega = theory.spread(gw.compress.Scaled(gw.compress.RandK(0.25)), 4)
    assert square(y.mean(0) - x).item() == pytest.approx(eta**2 * square(x).item())
    assert square(y - y.mean(0)).mean().item() == pytest.approx(omega * square(x).item())


def test_plans_without_strong_convexity_promise_no_rate() -> None:
    for method in ("ef21", "ef_bv", "marina", "dasha"):
        chosen = plan(method, replace(SIX, mu=0.0), **told(method))
        assert chosen.rate == 1
        with pytest.raises(ValueError, match=f"{method} is promised no linear rate"):
            chosen.rounds(0.1)
    assert plan("ef21_sgdm", SIX, delta=0.1).lyapunov is None
    assert "unverified" in plan("ef21_sgdm", SIX, delta=0.1).theorem


def test_plans_are_named_as_they_were_asked_for() -> None:
    assert [plan(method, SIX, **told(method)).method for method in METHODS] == list(METHODS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"L": 0.0}, "L must be positive and finite, got 0.0"),
        ({"L_i": [1.0, -1.0]}, "every L_i must be positive and finite, got -1.0"),
        ({"L_i": [1.0, math.nan]}, "every L_i must be positive and finite, got nan"),
        ({"L_i": []}, "one constant per worker, got none"),
        ({"L": 3.0}, "L can be at most the mean of the L_i, for f is the mean of the f_i: 2.0, got 3.0"),
        ({"mu": -1.0}, r"mu must lie in \[0, L\] = \[0, 1.0\], got -1.0"),
        ({"mu": 1.5}, r"mu must lie in \[0, L\] = \[0, 1.0\], got 1.5"),
        ({"mu_i": [0.5]}, r"mu_i needs one constant in \[0, L_i\] for each of 2 workers, got \(0.5,\)"),
        ({"mu_i": [0.5, -0.5]}, r"one constant in \[0, L_i\] for each of 2 workers, got \(0.5, -0.5\)"),
        ({"mu_i": [1.5, 0.5]}, r"one constant in \[0, L_i\] for each of 2 workers, got \(1.5, 0.5\)"),
    ],
)
def test_constants_that_cannot_be_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Constants(**{"L": 1.0, "L_i": [1.0, 3.0], "mu": 0.5, **arguments})


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("diana", {}, "diana needs an unbiased operator.*use ef21 or ef_bv, or generalised_diana"),
        ("ef21", {"omega": 3.0}, "ef21 needs a contractive operator.*use diana"),
        ("ef_bv", {"delta": 0.1}, r"see spread\(compressor, d\)"),
        ("ef_bv", {"omega": 1.0, "eta": 1.0}, r"eta, the relative bias, must lie in \[0, 1\), got 1.0"),
        ("ef_bv", {"omega": 9.0, "lam": 0.3}, "lam must be below 0.2 for shifts to contract, got 0.3"),
        ("generalised_diana", {"omega": 3.0}, "delta = None.*use diana"),
        ("diana", {"omega": 3.0, "alpha": 0.3}, r"alpha must lie in \(0, 0.25\].* got 0.3"),
        ("diana", {"omega": 3.0, "alpha": 0.0}, r"alpha must lie in \(0, 0.25\].* got 0.0"),
        ("diana", {"omega": 3.0, "boost": 1.0}, "boost must be greater than 1.* got 1.0"),
        ("rand_diana", {"omega": 3.0, "p": 1.5}, r"p must lie in \(0, 1\], got 1.5"),
        ("rand_diana", {"omega": 3.0, "boost": 0.5}, "boost must be greater than 1.* got 0.5"),
        ("marina", {"omega": 3.0, "p": 0.0}, r"p must lie in \(0, 1\], got 0.0"),
        ("gdci", {"omega": 3.0, "eta": 0.5}, r"eta must lie in \(0, .*gdci's largest, got 0.5"),
        ("gdci", {"omega": 3.0, "gamma": 1.0}, r"gamma must lie in \[20, 20\] for eta = .*, got 1.0"),
        ("vr_gdci", {"omega": 3.0, "alpha": 1.0}, r"alpha must lie in \(0, 0.25\].* got 1.0"),
        ("dcgd", {"omega": [1.0, 2.0]}, "omega needs one value for all or one for each of 6 workers, got 2"),
        ("dcgd", {"omega": -1.0}, r"omega must lie in \[0, infinity\), got -1.0"),
        ("star", {"omega": 1.0, "delta": 1.5}, r"delta must lie in \[0, 1\], got 1.5"),
        ("ef21", {"delta": 0.0}, r"delta must lie in \(0, 1\], got 0.0"),
        ("ef14", {"delta": 0.1}, "ef14 has no plan: its theorems ask for bounded gradients"),
        ("dianna", {"omega": 3.0}, "unknown method 'dianna'; did you mean 'diana'?"),
        ("adam", {"omega": 3.0}, "unknown method 'adam'; known are dcgd, fixed, "),
        ("dasha", {"omega": 3.0, "boost": 2.0, "p": 0.1}, "dasha takes omega, got boost, p"),
        ("locodl", {}, "locodl needs an unbiased operator.*use ef21 or ef_bv"),
        ("locodl", {"omega": 3.0, "p": 1.5}, r"p must lie in \(0, 1\], got 1.5"),
    ],
)
def test_what_no_theorem_covers_is_refused(method: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(method, SIX, **arguments)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in WITHOUT_CONVEXITY])
def test_strong_convexity_is_asked_for(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method}'s theorem needs a strongly convex f, and mu = 0.*use ef21"):
        plan(method, replace(SIX, mu=0.0), **told(method))


def test_local_steps_ask_every_worker_for_strong_convexity() -> None:
    with pytest.raises(ValueError, match=r"needs every f_i strongly convex, .* the smallest mu_i = 0.*use diana"):
        plan("locodl", replace(SIX, mu_i=[0.0, *SIX.mu_i[1:]]), omega=3.0)


def test_local_steps_save_the_root_of_the_condition() -> None:
    """T7: gamma = 2 / L_max, tau = (1 - mu / L_max)^2 = 1 - p^2 alpha at the default p, and p messages a step."""
    omega, n, worst, weakest = 3.0, 6, 7.0, 0.05
    chosen = plan("locodl", SIX, omega=omega)
    tau = (1 - weakest / worst) ** 2
    assert (chosen.gamma, chosen.split, chosen.rho) == pytest.approx((2 / worst, weakest / 2, 1 / (1 + omega / n)))
    assert chosen.alpha == pytest.approx(1 / ((1 + omega / n) * (1 + 2 * omega)))
    assert 1 - chosen.p**2 * chosen.alpha == pytest.approx(tau)
    assert chosen.rate**chosen.p == pytest.approx(tau)
    for other in (chosen.p / 2, min(1.0, 2 * chosen.p)):
        assert plan("locodl", SIX, omega=omega, p=other).rounds(1e-6) > chosen.rounds(1e-6)
    assert plan("locodl", Constants(1.0, [1.0, 1.0], 1.0, [1.0, 1.0]), omega=0.0).rounds(1e-6) == 1
    rounds = [plan("locodl", Constants(1.0, [1.0] * 9, m, [m] * 9), omega=1.0).rounds(1e-6) for m in (1e-2, 1e-4, 1e-6)]
    assert [rounds[1] / rounds[0], rounds[2] / rounds[1]] == pytest.approx([10, 10], rel=0.01)


def test_eps_is_a_fraction() -> None:
    with pytest.raises(ValueError, match=r"eps must lie in \(0, 1\), got 1.0"):
        plan("diana", SIX, omega=3.0).rounds(1.0)


def test_spread_refuses_what_no_theorem_covers() -> None:
    with pytest.raises(ValueError, match="biased and may expand a vector of 4 elements"):
        theory.spread(Expanding(0.25), 4)


class Expanding(gw.compress.TopK):
    def omega(self, d: int) -> float | None:
        return None

    def delta(self, d: int) -> float | None:
        return None


def test_the_example_runs() -> None:
    assert doctest.testmod(theory) == (0, 2)
