"""Methods of the shifted family: special cases of each other, fixed points, and what they send."""

from __future__ import annotations

import pytest
import torch
import zoo
from test_memory import QUADRATIC, shifts, xs

import gradwire as gw

D = zoo.LAYOUT.d
LAYOUT = gw.Layout(["x"], [(40,)])


def means(spec: str | gw.Exchange, n: int = 3, steps: int = 12, *, batched: bool = False) -> torch.Tensor:
    sim = gw.Simulator(spec, zoo.LAYOUT, n, seed=4, batched=batched)
    point = torch.linspace(-1, 1, D, dtype=torch.float64)
    return torch.stack([sim.step(xs(n, step), point).mean for step in range(steps)])


@pytest.mark.parametrize(
    ("general", "special"),
    [
        ("efbv(topk(density=0.1), lam=1.0, nu=1.0)", "ef21(topk(density=0.1))"),
        ("efbv(scaled(randk(density=0.2)), lam=1.0, nu=1.0)", "ef21(scaled(randk(density=0.2)))"),
        ("efbv(randk(density=0.2), lam=0.1, nu=1.0)", "diana(randk(density=0.2), alpha=0.1)"),
        ("efbv(natural, lam=0.8, nu=1.0)", "diana(natural, alpha=0.8)"),
        ("momentum(ef21(topk(density=0.1)), eta=1.0)", "ef21(topk(density=0.1))"),
        ("marina(randk(density=0.2), p=0.3)", "difference(randk(density=0.2), a=0.0, p=0.3)"),
        ("dasha(randk(density=0.2), a=0.1)", "difference(randk(density=0.2), a=0.1, p=0.0)"),
        ("shifted(randk(density=0.2), fixed())", "randk(density=0.2)"),
    ],
)
def test_special_cases_are_bit_equal(general: str, special: str) -> None:
    """EF-BV at (1, 1) is EF21 and at (alpha, 1) DIANA (Condat, Yi and Richtárik 2022); and more such pairs."""
    assert torch.equal(means(general), means(special))


@pytest.mark.parametrize(
    "spec",
    ["gdci(mean, gamma=0.3)", "vrgdci(mean, gamma=0.3)", "dasha(mean)", "marina(mean)", "marina(natural, p=1.0)"],
)
def test_with_nothing_lost_every_method_is_the_mean(spec: str) -> None:
    want = torch.stack([xs(3, step).mean(0) for step in range(12)])
    torch.testing.assert_close(means(spec), want, rtol=1e-12, atol=1e-12)


class Model:
    """Gradient descent on the memory tests' quadratic, with a model that the exchange may read."""

    def __init__(self, spec: str, start: torch.Tensor, *, shifts: torch.Tensor | None = None) -> None:
        self.sim = gw.Simulator(spec, LAYOUT, QUADRATIC.n, batched=True)
        self.x = start.clone()
        self.sim.start(self.x, shifts)

    def step(self, size: float) -> None:
        (sent,) = self.sim.send(gradients(self.x), self.x)
        sent.mean.add_to_(self.x, -size)

    def error(self) -> float:
        return (self.x - QUADRATIC.best).square().sum().item()


def gradients(x: torch.Tensor) -> torch.Tensor:
    return QUADRATIC.A * (x - QUADRATIC.c)


OMEGA = 3.0  # Rand-k with k = d / 4
START = torch.zeros(40, dtype=torch.float64)
SLOW = 1 / (QUADRATIC.L + 6 * OMEGA * QUADRATIC.L_max / QUADRATIC.n)
MU = QUADRATIC.A.mean(0).min().item()


@pytest.mark.parametrize(
    ("spec", "step"),
    [
        ("marina(randk(density=0.25))", SLOW),
        ("dasha(randk(density=0.25))", SLOW / 4),
        ("ef21sgdm(topk(density=0.25), eta=0.5)", SLOW),
        ("efbv(randk(density=0.25), lam=0.25, nu=0.5)", SLOW),
        (f"vrgdci(randk(density=0.25), gamma={1 / MU!r})", 1 / (QUADRATIC.L + 6 * OMEGA / 4 * (QUADRATIC.L_max - MU))),
    ],
)
def test_methods_with_a_memory_reach_the_optimum(spec: str, step: float) -> None:
    """With full gradients and workers that differ they converge linearly to 1e-20. Steps are shorter than the
    theorems'.
    """
    model = Model(spec, START)
    start = model.error()
    for _ in range(4000):
        model.step(step)
    assert model.error() < 1e-20 * start


def test_gdci_stalls() -> None:
    """It has its theorem's step: gamma = 1 / mu, and eta gamma = 1 / (L + 2 omega (L_max - mu) / n)."""
    model = Model(f"gdci(randk(density=0.25), gamma={1 / MU!r})", START)
    start = model.error()
    for _ in range(4000):
        model.step(1 / (QUADRATIC.L + 2 * OMEGA / 4 * (QUADRATIC.L_max - MU)))
    assert 1e-8 * start < model.error() < start


@pytest.mark.parametrize("spec", ["randk(density=0.25)", "induced(topk(density=0.1), randk(density=0.25))"])
def test_star_reaches_the_optimum_because_its_shifts_are_there(spec: str) -> None:
    """DCGD-STAR with C (the first part of the induced operator) and without."""
    model = Model(f"shifted({spec}, fixed())", START, shifts=gradients(QUADRATIC.best))
    start = model.error()
    for _ in range(1000):
        model.step(SLOW)
    assert model.error() < 1e-20 * start


def test_vr_gdci_stands_still_at_the_optimum_with_shifts_there() -> None:
    """h_i = T_i(x*) and x = x* is a fixed point."""
    gamma = 0.4
    there = QUADRATIC.best - gamma * gradients(QUADRATIC.best)
    model = Model(f"vrgdci(randk(density=0.25), gamma={gamma})", QUADRATIC.best, shifts=there)
    for _ in range(10):
        model.step(0.1)
    assert model.error() < 1e-25


def test_iterates_need_to_know_the_model() -> None:
    with pytest.raises(ValueError, match="needs to know the model"):
        gw.Simulator("gdci(natural, gamma=0.1)", zoo.LAYOUT, 2).step(xs(2, 0))


def test_a_point_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="expected params of shape"):
        gw.Simulator("gdci(natural, gamma=0.1)", zoo.LAYOUT, 2).step(xs(2, 0), torch.zeros(3))


def test_marina_pays_for_whole_rounds_and_only_then() -> None:
    sim = gw.Simulator("marina(randk(density=0.1), p=0.25)", gw.Layout(["x"], [(1000,)]), 2)
    steps = 400
    for step in range(steps):
        sim.step(torch.randn(2, 1000, generator=torch.Generator().manual_seed(step)))
    whole = sim.ledger.entries["AllReduce"].bytes // (2 * 4000)
    assert sim.ledger.entries["AllGather"].bytes == 2 * (steps - whole) * gw.compress.RandK(0.1).nbytes(1000)
    assert abs((whole - 1) / (steps - 1) - 0.25) < 5 * (0.25 * 0.75 / steps) ** 0.5


def test_shifts_can_be_set_where_there_are_any() -> None:
    for batched in (False, True):
        sim = gw.Simulator("diana(randk(density=0.2))", zoo.LAYOUT, 3, batched=batched)
        sim.start(xs(3, 0), xs(3, 0))
        torch.testing.assert_close(sim.step(xs(3, 0)).mean, xs(3, 0).mean(0))
    torch.testing.assert_close(shifts(sim)[0][0], xs(3, 0))
    with pytest.raises(ValueError, match="keeps no shifts"):
        gw.Simulator("ef(topk(density=0.1))", zoo.LAYOUT, 3).start(xs(3, 0), xs(3, 0))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gdci(topk(density=0.1), gamma=1.0)", "gdci needs an unbiased operator"),
        ("vrgdci(topk(density=0.1), gamma=1.0)", "use ef21"),
        ("gdci(natural, gamma=0)", "gamma must be positive and finite, got 0"),
        ("marina(topk(density=0.1))", "biased; use ef21"),
        ("dasha(randk(density=0.1), a=2)", r"a must lie in \[0, 1\], got 2"),
        ("efbv(topk(density=0.1), lam=0.5, nu=0.0)", r"nu must lie in \(0, 1\], got 0"),
        ("efbv(ef(topk(density=0.1)), lam=0.5, nu=0.5)", "neither"),
        ("ef21sgdm(randk(density=0.1))", "scaled"),
        ("momentum(mean, eta=0)", r"eta must lie in \(0, 1\], got 0"),
        ("ef(marina(randk(density=0.1)))", "no memory inside another"),
    ],
)
def test_wrong_pairings_are_refused(spec: str, message: str) -> None:
    with pytest.raises(gw.SpecError, match=message):
        gw.parse(spec)


def test_a_lam_with_which_shifts_run_away_is_refused_when_the_dimension_is_known() -> None:
    with pytest.raises(ValueError, match=r"lam must be below 2 / \(1 \+ omega\) = 0.2 .* got 0.5"):
        gw.memory.EFBV(gw.exchange.Gathered(gw.compress.RandK(0.1)), 0.5, 1.0).init(gw.Layout(["x"], [(100,)]))
