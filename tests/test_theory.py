"""Theorems hold: one round from any state leaves at most rate * V + noise, in exact expectation.

For Rand-k E |Q(r) - r|^2 = omega |r|^2 with equality, and workers draw independently, so a V in squared distances has
an expectation in closed form (T1 to T6). A V in function values has none, so all supports are enumerated there. The
real exchanges are enumerated as well, and compared with both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import gradwire as gw
from gradwire.lab.convex import theory
from gradwire.lab.convex.theory import Constants, Distance, Gap, TheoryPlan, plan

POINTS = 200
ROUNDING = 1e-12  # of float64, over sums of at most 40 x 40 terms


@dataclass(frozen=True)
class Quadratics:
    """f_i(x) = (x - c_i)^T A_i (x - c_i) / 2 with A_i f64[n, d, d] and c_i f64[n, d]."""

    A: Tensor
    c: Tensor

    @property
    def best(self) -> Tensor:
        return torch.linalg.solve(self.A.sum(0), torch.einsum("nij,nj->i", self.A, self.c))

    @property
    def best_gradients(self) -> Tensor:
        return self.gradients(self.best)

    @property
    def constants(self) -> Constants:
        spectrum = torch.linalg.eigvalsh(self.A.mean(0))
        return Constants(spectrum[-1].item(), torch.linalg.eigvalsh(self.A)[:, -1].tolist(), spectrum[0].item())

    def gradients(self, x: Tensor) -> Tensor:
        """f[..., d] -> f[..., n, d]."""
        return torch.einsum("nij,...nj->...ni", self.A, x.unsqueeze(-2) - self.c)

    def gap(self, x: Tensor) -> Tensor:
        """f(x) - f(x*): f[..., d] -> f[...]."""
        e = x - self.best
        return torch.einsum("...i,ij,...j->...", e, self.A.mean(0), e) / 2


def quadratics(n: int, d: int, seed: int) -> Quadratics:
    """Make workers with different spectra (from 10^-3 to 1, some directions flat), rotations, scales and optima."""
    rng = torch.Generator().manual_seed(seed)
    rotations = torch.linalg.qr(torch.randn(n, d, d, generator=rng, dtype=torch.float64)).Q
    spectra = 10 ** (-3 * torch.rand(n, d, generator=rng, dtype=torch.float64))
    spectra *= torch.rand(n, d, generator=rng, dtype=torch.float64) > 0.2
    spectra *= 10 ** (2 * torch.rand(n, 1, generator=rng, dtype=torch.float64) - 1)
    A = rotations @ torch.diag_embed(spectra) @ rotations.mT
    return Quadratics((A + A.mT) / 2, torch.randn(n, d, generator=rng, dtype=torch.float64))


def states(problem: Quadratics, wanted: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return points f[POINTS, d] and shifts f[POINTS, n, d], from 10^-2 to 10^2 away from x* and from the right shifts.

    Half of the points lie along eigenvectors of f or of one f_i, where theorems are tight. A quarter of the shifts is
    right at x*, and a quarter at x.
    """
    n, d = problem.c.shape
    rng = torch.Generator().manual_seed(n * d)
    directions = torch.randn(POINTS, d, generator=rng, dtype=torch.float64)
    axes = torch.cat([problem.A.mean(0, keepdim=True), problem.A])
    axes = torch.linalg.eigh(axes).eigenvectors.mT.flatten(0, 1)
    directions[::2] = axes[torch.randint(len(axes), (POINTS // 2,), generator=rng)]
    directions[: 2 * d : 2] = axes[:d]
    x = problem.best + directions * 10 ** (4 * torch.rand(POINTS, 1, generator=rng, dtype=torch.float64) - 2)
    errors = torch.randn(POINTS, n, d, generator=rng, dtype=torch.float64)
    h = wanted(problem.best) + errors * 10 ** (4 * torch.rand(POINTS, 1, 1, generator=rng, dtype=torch.float64) - 2)
    quarter = torch.randint(4, (POINTS,), generator=rng)
    h[quarter == 1] = wanted(problem.best)
    h[quarter == 2] = wanted(x)[quarter == 2]
    return x, h


def square(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def keep(x: Tensor) -> Tensor:
    """Apply the contractive C of these tests: Top-k with k = d / 4, deterministic, delta = 1 / 4."""
    return torch.zeros_like(x).scatter_(-1, x.abs().topk(x.shape[-1] // 4, -1).indices, 1.0) * x


# T1 to T6: distances, in closed form.


@dataclass(frozen=True)
class Case:
    """A method with options. alpha, p and eta are relative to the method's default."""

    method: str
    options: dict[str, float]

    def plan(self, constants: Constants, omega: theory.PerWorker, conservative: bool = False) -> TheoryPlan:
        exact = {name: self.options[name] for name in ("delta", "boost") if name in self.options}
        default = plan(self.method, constants, omega=omega, conservative=conservative, **exact)
        shares = {name: share * getattr(default, name) for name, share in self.options.items() if name not in exact}
        return plan(self.method, constants, omega=omega, conservative=conservative, **exact, **shares)

    def __str__(self) -> str:
        return f"{self.method}({', '.join(f'{name}={value}' for name, value in self.options.items())})"


def cases(method: str, *options: dict[str, float]) -> list[Case]:
    return [Case(method, option) for option in ({}, *options)]


DISTANCES = [
    *cases("dcgd"),
    *cases("fixed"),
    *cases("star", {"delta": 0.25}),
    *cases("diana", {"boost": 1.1}, {"boost": 8.0}, {"alpha": 0.1}),
    *[Case("generalised_diana", {"delta": 0.25, **option}) for option in ({}, {"boost": 1.1}, {"alpha": 0.1})],
    *cases("rand_diana", {"boost": 1.1}, {"boost": 8.0}, {"p": 0.1}),
    *cases("gdci", {"eta": 0.1}),
    *cases("vr_gdci", {"boost": 1.1}, {"boost": 8.0}, {"alpha": 0.1}, {"eta": 0.1}),
]


def expected(case: Case, plan: TheoryPlan, problem: Quadratics, omega: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """Return E V of the next state, f[...]. V is quadratic, so this is V of the mean state plus the
    weighted variances.
    """
    gradients, iterates = problem.gradients(x), case.method in ("gdci", "vr_gdci")
    shift = h
    if case.method == "star":
        difference = gradients - problem.best_gradients
        shift = problem.best_gradients + (keep(difference) if "delta" in case.options else 0.0)
    r = (x.unsqueeze(-2) - plan.gamma * gradients if iterates else gradients) - shift
    variance = omega * square(r - keep(r) if case.method == "generalised_diana" else r)
    follow, h_variance = 0.0, torch.zeros_like(variance)
    if plan.alpha is not None:
        follow, h_variance = plan.alpha, plan.alpha**2 * variance
    if plan.p is not None:  # a coin: the mean of h and h + r, and its variance
        follow, h_variance = plan.p, plan.p * (1 - plan.p) * square(r)
    v, scale = plan.lyapunov, (plan.eta if iterates else plan.step)
    middle = v(x - plan.step * gradients.mean(-2), h + follow * r, problem.best, problem.best_gradients)
    weights = x.new_tensor(v.weights or (0.0,) * len(problem.c))
    return middle + scale**2 * variance.sum(-1) / len(problem.c) ** 2 + (weights * h_variance).sum(-1)


def wanted(plan: TheoryPlan, problem: Quadratics) -> Callable[[Tensor], Tensor]:
    """Return the right shifts at x."""
    if plan.method in ("gdci", "vr_gdci"):
        return lambda x: x.unsqueeze(-2) - plan.gamma * problem.gradients(x)
    return problem.gradients


def one_round(case: Case, plan: TheoryPlan, problem: Quadratics, omega: Tensor) -> tuple[Tensor, Tensor]:
    """Return E V(next), and rate * V + noise: f[POINTS] each."""
    x, h = states(problem, wanted(plan, problem))
    if case.method in ("dcgd", "gdci"):
        h.zero_()
    v, best, best_gradients = plan.lyapunov, problem.best, problem.best_gradients
    bound = plan.rate * v(x, h, best, best_gradients) + v.added(h, best, best_gradients)
    return expected(case, plan, problem, omega, x, h), bound


def longer(plan: TheoryPlan, factor: float) -> TheoryPlan:
    """Return the same promise with a longer step; by the theorems, weights and noise grow with its square."""
    v = plan.lyapunov
    if isinstance(v, Distance):
        weights, noise = (tuple(factor**2 * value for value in values) for values in (v.weights, v.noise))
        v = replace(v, weights=weights, noise=noise)
    else:
        v = replace(v, each=factor * v.each, mean=factor * v.mean)
    eta = plan.eta * factor if plan.method in ("gdci", "vr_gdci") else plan.eta
    gamma = plan.gamma if plan.method in ("gdci", "vr_gdci") else plan.gamma * factor
    return replace(plan, step=plan.step * factor, gamma=gamma, eta=eta, lyapunov=v)


PROBLEMS = [quadratics(n, d, seed) for seed, (n, d) in enumerate([(3, 8), (5, 20), (10, 40)])]


def omegas(n: int) -> list[Tensor]:
    """Return d / k - 1 of each worker's Rand-k: the same for all, or from exact to d / k = 10."""
    return [torch.full((n,), 1.0), torch.full((n,), 9.0), torch.tensor([0.0, 1.0, 3.0, 9.0] * n)[:n]]


@pytest.mark.parametrize("case", DISTANCES, ids=str)
def test_one_round_of_a_distance(case: Case, record_property: Callable[[str, object], None]) -> None:
    """T1 to T6 (Shulgin and Richtárik 2022): E V(next) <= rate * V + noise, and not by much."""
    worst = 0.0
    for problem in PROBLEMS:
        for omega in omegas(len(problem.c)):
            for conservative in (False, True):
                chosen = case.plan(problem.constants, omega.tolist(), conservative)
                after, bound = one_round(case, chosen, problem, omega.double())
                worst = max(worst, (after / bound).max().item())
    record_property("worst ratio", float(worst))
    print(f"{case}: worst ratio {worst:.6f}")
    assert 0.5 < worst <= 1 + ROUNDING


def agreeing(n: int, d: int) -> Quadratics:
    """Give all workers the same f_i, with eigenvalues from 0.01 to 1, for which theorems are tightest."""
    A = torch.diag(torch.logspace(-2, 0, d, dtype=torch.float64))
    return Quadratics(A.expand(n, d, d).contiguous(), torch.ones(n, d, dtype=torch.float64))


@pytest.mark.parametrize("case", DISTANCES, ids=str)
def test_a_step_three_times_as_long_breaks_the_promise(case: Case) -> None:
    problem, omega = agreeing(10, 8), torch.ones(10, dtype=torch.float64)
    chosen = case.plan(problem.constants, omega.tolist())
    for factor, holds in ((1.0, True), (3.0, False)):
        after, bound = one_round(case, longer(chosen, factor), problem, omega)
        assert bool((after <= bound * (1 + ROUNDING)).all()) == holds


# EF21, EF-BV, MARINA and DASHA: values, by all supports.


def supports(d: int, k: int, n: int) -> list[tuple[tuple[int, ...], ...]]:
    """List every choice of k of d indices by each of n workers."""
    return list(itertools.product(itertools.combinations(range(d), k), repeat=n))


Operator = Callable[[Tensor], Tensor]


def randk(d: int, k: int, n: int, scale: float) -> Operator:
    """Map f[..., 1, n, d] to f[..., S, n, d]: scale * r on each of the S supports."""
    masks = torch.zeros(len(supports(d, k, n)), n, d, dtype=torch.float64)
    masks.scatter_(-1, torch.tensor(supports(d, k, n)), scale)
    return lambda r: masks * r


def value_round(plan: TheoryPlan, problem: Quadratics, operator: Operator, x: Tensor, h: Tensor) -> Tensor:
    """Return E V(next), f[...], from points f[..., d] and the workers' estimates of the gradients
    there, f[..., n, d].
    """
    gradients = problem.gradients(x).unsqueeze(-3)
    x, h = x.unsqueeze(-2), h.unsqueeze(-3)
    if plan.method == "ef_bv":
        message = operator(gradients - h)
        return value(plan, problem, x - plan.step * (h + plan.nu * message).mean(-2), h + plan.lam * message).mean(-1)
    x = x - plan.step * h.mean(-2)
    new = problem.gradients(x)
    if plan.method == "ef21":
        h = h + operator(new - h)
    if plan.method == "dasha":
        h = h + operator(new - gradients - plan.alpha * (h - gradients))
    if plan.method == "marina":
        tails = value(plan, problem, x, h + operator(new - gradients)).mean(-1)
        return plan.p * problem.gap(x).squeeze(-1) + (1 - plan.p) * tails
    return value(plan, problem, x, h).mean(-1)


def value(plan: TheoryPlan, problem: Quadratics, x: Tensor, h: Tensor) -> Tensor:
    assert isinstance(plan.lyapunov, Gap)
    return plan.lyapunov(problem.gap(x), h, problem.gradients(x))


@dataclass(frozen=True)
class Setting:
    """A method, its operator, and what the method is told of the operator."""

    method: str
    told: dict[str, float]
    operator: Operator

    def ratio(self, problem: Quadratics, mu: float, factor: float = 1.0) -> float:
        chosen = longer(plan(self.method, replace(problem.constants, mu=mu), **self.told), factor)
        x, h = states(problem, problem.gradients)
        return (value_round(chosen, problem, self.operator, x, h) / (chosen.rate * value(chosen, problem, x, h))).max()


def settings(d: int, k: int, n: int) -> dict[str, Setting]:
    unbiased, scaled, omega = randk(d, k, n, d / k), randk(d, k, n, 1.0), d / k - 1
    eta = math.sqrt(1 - 1 / d)
    return {
        "ef21 of topk": Setting("ef21", {"delta": 1 / d}, keep),
        "ef21 of scaled randk": Setting("ef21", {"delta": k / d}, scaled),
        "ef_bv of topk": Setting("ef_bv", {"eta": eta, "omega": 0.0}, keep),
        "ef_bv of topk, loosely": Setting("ef_bv", {"eta": eta, "omega": 1 - 1 / d}, keep),
        "ef_bv of randk": Setting("ef_bv", {"omega": omega}, unbiased),
        "ef_bv of scaled randk": Setting("ef_bv", {"eta": 1 - k / d, "omega": k / d * (1 - k / d)}, scaled),
        "ef_bv as diana": Setting("ef_bv", {"omega": omega, "lam": k / d, "nu": 1.0}, unbiased),
        "marina": Setting("marina", {"omega": omega}, unbiased),
        "marina, rarely whole": Setting("marina", {"omega": omega, "p": 0.05}, unbiased),
        "dasha": Setting("dasha", {"omega": omega}, unbiased),
    }


@pytest.mark.parametrize("name", settings(4, 2, 2))
def test_one_round_of_a_value(name: str, record_property: Callable[[str, object], None]) -> None:
    """E V(next) <= rate * V with strong convexity, and with rate 1 without it."""
    worst = 0.0
    for d, k, n in ((4, 2, 2), (4, 1, 3), (5, 2, 3)):
        for seed in range(3):
            problem, setting = quadratics(n, d, seed), settings(d, k, n)[name]
            worst = max(worst, setting.ratio(problem, 0.0), setting.ratio(problem, problem.constants.mu))
    record_property("worst ratio", float(worst))
    print(f"{name}: worst ratio {worst:.6f}")
    assert 0.5 < worst <= 1 + ROUNDING


@pytest.mark.parametrize("name", [name for name in settings(4, 2, 2) if "topk" not in name])
def test_a_step_ten_times_as_long_does_not_keep_the_promise(name: str) -> None:
    """Top-k is left out, because random states are never its worst case."""
    problem, setting = agreeing(2, 4), settings(4, 2, 2)[name]
    for mu in (0.0, problem.constants.mu):
        assert setting.ratio(problem, mu) <= 1 + ROUNDING < setting.ratio(problem, mu, factor=10.0)


def test_marina_needs_the_constant_of_each_worker() -> None:
    """With L instead of L~, as if all f_i were f, the step is too long for workers that own a coordinate each."""
    axes = torch.eye(4, dtype=torch.float64)
    problem, operator = Quadratics(torch.diag_embed(axes), axes.new_zeros(4, 4)), randk(4, 1, 4, 4.0)
    constants = replace(problem.constants, mu=0.0)
    chosen, alike = (
        plan("marina", replace(constants, L_i=L_i), omega=3.0) for L_i in (constants.L_i, [constants.L] * 4)
    )
    x, h = states(problem, problem.gradients)
    for step, holds in ((chosen, True), (longer(chosen, alike.step / chosen.step), False)):
        after, before = value_round(step, problem, operator, x, h), value(step, problem, x, h)
        assert bool((after <= before * (1 + ROUNDING)).all()) == holds


# The real exchanges, over all supports.


@dataclass(frozen=True)
class Chosen:
    """Rand-k on given indices, a set for each worker, scaled if unbiased. If induced, it acts on what `keep` leaves."""

    places: tuple[tuple[int, ...], ...]
    unbiased: bool = True
    induced: bool = False

    def encode(self, x: Tensor, turn: gw.Turn) -> Tensor:
        assert isinstance(turn.rank, int)
        base = keep(x) if self.induced else torch.zeros_like(x)
        places = torch.tensor(self.places[turn.rank])
        base[places] += (x - base)[places] * (len(x) / len(places) if self.unbiased else 1.0)
        return base.view(torch.uint8)

    def decode(self, wire: Tensor, d: int) -> gw.Dense:
        return gw.Dense(wire.view(torch.float64))

    def nbytes(self, d: int) -> int:
        return 8 * d

    def omega(self, d: int) -> float | None:
        return (0.75 if self.induced else 1.0) if self.unbiased else None

    def delta(self, d: int) -> float | None:
        return None if self.unbiased else 0.5


def fill_(state: gw.State, rank: int, held: dict[str, Tensor]) -> None:
    """Write the values, rows f[n, d] or a mean f[d], into a worker's state and the states inside it."""
    for name, entry in state.items():
        if isinstance(entry, dict):
            fill_(entry, rank, held)
        else:
            entry.copy_(held[name] if held[name].ndim == 1 else held[name][rank])


def rows(workers: list[gw.State], name: str) -> Tensor | None:
    """Return what the workers hold under a name, f[n, d], wherever it is in their states."""
    if name in workers[0]:
        return torch.stack([state[name] for state in workers])
    return rows([state["inner"] for state in workers], name) if "inner" in workers[0] else None


def outcomes(
    exchange: Callable[[gw.exchange.Gathered], gw.Exchange],
    chosen: Chosen,
    x: Tensor,
    gradients: Tensor,
    held: dict[str, Tensor],
) -> Iterable[tuple[Tensor, list[gw.State]]]:
    """Return the mean f[d] and the workers' states after one exchange at x, for each of the 6 x 6 supports of two
    workers.
    """
    n, d = gradients.shape
    layout = gw.Layout(["x"], [(d,)])
    for places in supports(d, 2, n):
        made = exchange(gw.exchange.Gathered(replace(chosen, places=places)))
        workers = [made.init(layout, torch.float64) for _ in range(n)]
        for rank, state in enumerate(workers):
            fill_(state, rank, held)
        turns = [gw.Turn(rank, n, 1, layout, params=lambda: x) for rank in range(n)]
        sent = gw.lockstep([made(g, state, turn) for g, state, turn in zip(gradients, workers, turns, strict=True)])
        yield sent[0].mean.dense().clone(), workers


NEVER = 1e-9  # a probability that no test meets

Sides = list[tuple[float, Callable[[gw.exchange.Gathered], gw.Exchange]]]


def sides(plan: TheoryPlan) -> Sides:
    """Return the exchange of a plan. If one coin decides for all workers, return both sides with their
    probabilities.
    """
    match plan.method:
        case "dcgd" | "fixed" | "star":
            return [(1.0, lambda e: gw.memory.Shifted(e, gw.memory.Fixed()))]
        case "diana" | "generalised_diana":
            return [(1.0, lambda e: gw.memory.DIANA(e, plan.alpha))]
        case "rand_diana":
            return [
                (plan.p, lambda e: gw.memory.RandDIANA(e, 1.0)),
                (1 - plan.p, lambda e: gw.memory.RandDIANA(e, NEVER)),
            ]
        case "gdci":
            return [(1.0, lambda e: gw.memory.GDCI(e, plan.gamma))]
        case "vr_gdci":
            return [(1.0, lambda e: gw.memory.VRGDCI(e, plan.gamma, plan.alpha))]
        case "ef21":
            return [(1.0, gw.memory.EF21)]
        case "ef_bv":
            return [(1.0, lambda e: gw.memory.EFBV(e, plan.lam, plan.nu))]
        case "marina":
            return [(plan.p, lambda e: gw.memory.MARINA(e, 1.0)), (1 - plan.p, lambda e: gw.memory.MARINA(e, NEVER))]
        case _:
            return [(1.0, lambda e: gw.memory.DASHA(e, plan.alpha))]


REAL = [case for case in DISTANCES if set(case.options) <= {"delta"} and str(case) != "star()"]


@pytest.mark.parametrize("case", REAL, ids=str)
def test_exchanges_average_to_the_closed_forms(case: Case) -> None:
    """Rand-DIANA has one coin for all workers, and E V is the same as with one coin each."""
    problem, omega = quadratics(2, 4, seed=5), torch.ones(2, dtype=torch.float64)
    chosen = case.plan(problem.constants, 1.0)
    x, h = (values[7] for values in states(problem, wanted(chosen, problem)))
    if case.method in ("dcgd", "gdci"):
        h = torch.zeros_like(h)
    if case.method == "star":
        h = problem.best_gradients
    operator = Chosen((), induced="delta" in case.options)
    total = torch.zeros((), dtype=torch.float64)
    for share, exchange in sides(chosen):
        for mean, workers in outcomes(exchange, operator, x, problem.gradients(x), {"h": h, "mean_h": h.mean(0)}):
            after = (x - chosen.step * mean, rows(workers, "h"), problem.best, problem.best_gradients)
            total += share * chosen.lyapunov(*after) / 36
    assert total.item() == pytest.approx(expected(case, chosen, problem, omega, x, h).item(), rel=ROUNDING)


@pytest.mark.parametrize("name", [name for name in settings(4, 2, 2) if "topk" not in name])
def test_exchanges_average_to_the_formulas_of_the_values(name: str) -> None:
    problem, setting = quadratics(2, 4, seed=5), settings(4, 2, 2)[name]
    chosen = plan(setting.method, problem.constants, **setting.told)
    x, h = (values[7] for values in states(problem, problem.gradients))
    held = {"h": h, "mean_h": h.mean(0), "said": h, "mean_said": h.mean(0), "last": problem.gradients(x)}
    before = setting.method == "ef_bv"
    at = x if before else x - chosen.step * h.mean(0)
    total = torch.zeros((), dtype=torch.float64)
    for share, exchange in sides(chosen):
        for mean, workers in outcomes(exchange, Chosen((), "scaled" not in name), at, problem.gradients(at), held):
            after = rows(workers, "said" if setting.method in ("marina", "dasha") else "h")
            total += share * value(chosen, problem, x - chosen.step * mean if before else at, after) / 36
    assert chosen.lyapunov.after is not before
    wanted = value_round(chosen, problem, setting.operator, x, h).item()
    assert total.item() == pytest.approx(wanted, rel=ROUNDING)
