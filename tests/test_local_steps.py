"""Local steps with control variates: their theorem, their special cases, and where they pay."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import gradwire as gw
from gradwire.lab.averager import InProcess
from gradwire.lab.convex.descent import descend
from gradwire.lab.convex.local_steps import LocalDescent, Points, local_points
from gradwire.lab.convex.methods import ConvexMethod, compose, constants
from gradwire.lab.convex.problems import Problem, make
from gradwire.lab.convex.theory import TheoryPlan, plan
from gradwire.spec import operator

ROUNDING = 1e-11  # of float64, relative: V sums squares that differ by a factor of 1e4


def ridge(**options: float) -> Problem:
    """An ill-conditioned problem: it has fewer rows than columns, so only the penalty of 0.1 makes f and every f_i
    convex.
    """
    return make("ridge", **{"m": 80, "d": 100, "penalty": 0.1, **options})


@dataclass(frozen=True)
class Holding:
    """A state before a local step, with its plan and problem."""

    problem: Problem
    plan: TheoryPlan
    x: Tensor
    y: Tensor
    h: Tensor

    def points(self) -> tuple[Points, LocalDescent]:
        """Return points with the control variates that sums h f[n, d] of messages give them."""
        local = LocalDescent(self.plan.p, self.plan.alpha, self.plan.rho, self.plan.split)
        points = Points(self.x.clone(), self.y.clone(), torch.empty_like(self.x), torch.empty_like(self.y))
        factor = local.p * local.alpha / self.plan.gamma
        points.v.copy_(factor * self.h.mean(0) / 2)
        points.u.copy_(points.v - factor * self.h)
        return points, local

    def value(self, points: Points) -> float:
        problem = self.problem
        return self.plan.lyapunov(points.x, points.y, points.u, points.v, problem.best, problem.best_gradients).item()

    def step(self) -> tuple[Points, LocalDescent]:
        points, local = self.points()
        points.step_(self.problem.gradients(points.x), self.plan.gamma, local.split)
        return points, local

    def after(self, messages: Tensor) -> float:
        """Return V after a local step and an exchange of the messages f[n, d]."""
        points, local = self.step()
        sums = self.h + messages
        states = [{"h": sums, "mean_h": sums.mean(0)}]
        points.meet_(messages.mean(0), states, self.plan.gamma, local)
        return self.value(points)

    def ratio(self, k: int) -> float:
        """Return E V(next) / (tau V), over all supports of Rand-k."""
        n, d = self.x.shape
        points, _ = self.step()
        quiet, difference = self.value(points), points.x - points.y
        loud: list[float] = []
        for places in itertools.product(itertools.combinations(range(d), k), repeat=n):
            mask = torch.zeros(n, d, dtype=torch.float64).scatter_(1, torch.tensor(places), d / k)
            loud.append(self.after(mask * difference))
        p, before = self.plan.p, self.value(self.points()[0])
        return ((1 - p) * quiet + p * sum(loud) / len(loud)) / (self.plan.rate**p * before)


def holdings(chosen: TheoryPlan, problem: Problem, states: int) -> list[Holding]:
    """Return states 10^-2 to 10^2 away from x* and from the right control variates; some of these are right."""
    rng = torch.Generator().manual_seed(problem.n)
    n, d = problem.n, problem.d

    def away(*shape: int) -> Tensor:
        size = 10 ** (4 * torch.rand((), generator=rng, dtype=torch.float64) - 2)
        axis = torch.zeros(*shape, dtype=torch.float64)
        axis[..., torch.randint(d, (), generator=rng)] = 1.0
        noise = torch.randn(*shape, generator=rng, dtype=torch.float64)
        return size * (axis if torch.rand((), generator=rng) < 0.5 else noise)

    found: list[Holding] = []
    for state in range(states):
        y = problem.best + away(d)
        x = y.repeat(n, 1) if state % 3 == 0 else problem.best + away(n, d)
        # u_i = c (mean_h / 2 - h_i) and v = c mean_h / 2: right where h_i = (v* - u_i*) / c.
        right = 2 * chosen.split * problem.best - problem.best_gradients
        factor = chosen.p * chosen.alpha / chosen.gamma
        h = right / factor if state % 2 == 0 else right / factor + away(n, d) / (chosen.gamma * factor)
        found.append(Holding(problem, chosen, x, y, h))
    return found


def small(n: int, d: int) -> Problem:
    return make("quadratic", workers=n, d=d, condition=20.0, heterogeneity=0.5)


def longer(chosen: TheoryPlan, gamma: float = 1.0, alpha: float = 1.0, rho: float = 1.0) -> TheoryPlan:
    """Return the same promise with parameters that are so many times as large."""
    made = replace(chosen, gamma=chosen.gamma * gamma, alpha=chosen.alpha * alpha, rho=chosen.rho * rho)
    return replace(made, lyapunov=replace(made.lyapunov, weight=made.gamma**2 / (made.p**2 * made.alpha)))


@pytest.mark.parametrize(("n", "d", "k"), [(1, 4, 1), (2, 4, 2), (2, 4, 4), (3, 4, 3)])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_local_step_keeps_the_promise(n: int, d: int, k: int, share: float) -> None:
    """T7 (Condat, Maranjyan and Richtárik 2025): E V(next) <= tau V in exact expectation, and not by much."""
    problem, omega = small(n, d), d / k - 1
    p = share * plan("locodl", constants(problem), omega=omega).p
    chosen = plan("locodl", constants(problem), omega=omega, p=p)
    worst = max(each.ratio(k) for each in holdings(chosen, problem, 48))
    assert 0.9 < worst <= 1 + ROUNDING


@pytest.mark.parametrize("times", [{"gamma": 1.3}, {"alpha": 4.0}, {"rho": 2.0}])
def test_larger_parameters_break_the_promise(times: dict[str, float]) -> None:
    problem = small(2, 4)
    chosen = longer(plan("locodl", constants(problem), omega=3.0), **times)
    assert max(each.ratio(1) for each in holdings(chosen, problem, 48)) > 1.001


def test_at_the_optimum_with_its_control_variates_nothing_moves() -> None:
    problem = small(3, 6)
    method = compose("locodl", problem, operator("randk(density=0.5)"))
    here, chosen = problem.best, method.plan
    h = 2 * chosen.split * here - problem.best_gradients
    held = Holding(problem, chosen, here.repeat(3, 1), here, h * chosen.gamma / (chosen.p * chosen.alpha))
    points, _ = held.step()
    torch.testing.assert_close(points.x, held.x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(points.y, held.y, rtol=1e-12, atol=1e-12)
    assert held.value(points) < 1e-20
    assert held.after(points.x - points.y) < 1e-20


def test_an_exchange_after_every_step_is_gradient_descent() -> None:
    """With p = 1 and the identity y moves by gamma / 2, because y has half of the weight. Messages are float32."""
    problem = small(3, 6)
    local = compose("locodl", problem, operator("identity"), p=1.0)
    plain = compose("gd", problem, operator("identity"), step=local.step / 2)
    ours, theirs = (descend(problem, method, 40, every=1).marks for method in (local, plain))
    assert [mark.error for mark in ours] == pytest.approx([mark.error for mark in theirs], rel=1e-5)


def test_the_mean_run_keeps_to_the_rate_on_ridge() -> None:
    """E V tau^-T <= V(0) after T local steps, over 30 runs whose mean may be off by three of its
    standard deviations.
    """
    problem = ridge(m=24, d=30, penalty=1.0)
    method = compose("locodl", problem, operator("natural"))
    values = torch.tensor([[run[0], run[1]] for run in (followed(problem, method, seed) for seed in range(30))])
    begin, end = values.unbind(1)
    assert end.mean() <= begin[0] + 3 * end.std() / 30**0.5
    assert end.mean() > 1e-6 * begin[0]


def followed(problem: Problem, method: ConvexMethod, seed: int, rounds: int = 40) -> tuple[float, float]:
    """Return V at the start and, times tau^-T, after `rounds` exchanges."""
    layout, tau = gw.Layout(["x"], [(problem.d,)]), method.plan.rate**method.plan.p
    averager = InProcess(method.exchange, layout, problem.n, seed, torch.float64, batched=True)
    run = local_points(problem, method.local, method.step, averager, seed, torch.float64)
    *_, points = itertools.islice(run, rounds)
    steps = sum(method.local.steps(gw.Turn(0, problem.n, k, layout, seed)) for k in range(rounds))
    begin = Points(
        problem.start.repeat(problem.n, 1), problem.start, torch.zeros_like(points.u), torch.zeros_like(points.v)
    )
    return tuple(
        method.plan.lyapunov(at.x, at.y, at.u, at.v, problem.best, problem.best_gradients).item() * factor
        for at, factor in ((begin, 1.0), (points, tau**-steps))
    )


def test_local_steps_are_geometric_and_the_same_for_all_workers() -> None:
    layout, local = gw.Layout(["x"], [(3,)]), LocalDescent(p=0.1, alpha=1.0, rho=1.0, split=0.0)
    counts = torch.tensor([local.steps(gw.Turn(0, 4, k, layout, 7)) for k in range(2000)], dtype=torch.float64)
    assert counts.min() == 1
    assert counts.mean().item() == pytest.approx(10, abs=4 * 90**0.5 / 2000**0.5)
    assert [local.steps(gw.Turn(rank, 4, 5, layout, 7)) for rank in range(4)] == [counts[5].item()] * 4
    assert replace(local, p=1.0).steps(gw.Turn(0, 4, 5, layout, 7)) == 1


def test_on_an_ill_conditioned_ridge_it_takes_fewer_rounds_and_bytes() -> None:
    """To an error of 1e-3 it takes fewer than gradient descent and DIANA, all at their theorems' steps."""
    problem, reached = ridge(m=40, d=50), {}
    for name, spec in (("dcgd", "identity"), ("diana", "natural"), ("locodl", "identity"), ("locodl", "natural")):
        trace = descend(problem, compose(name, problem, operator(spec)), 20_000, every=10, until=1e-3)
        reached[name, spec] = trace.first_below(1e-3)
    ours = reached["locodl", "natural"]
    assert ours.round < reached["dcgd", "identity"].round / 5
    assert ours.round < reached["diana", "natural"].round / 5
    assert ours.bytes < reached["diana", "natural"].bytes / 5
    assert ours.bytes < reached["locodl", "identity"].bytes / 2.5


def test_what_local_steps_do_not_take_is_refused() -> None:
    fewer_rows = make("ridge", m=30, d=20, penalty=0.0)  # than columns on every worker, but not in all
    with pytest.raises(ValueError, match="locodl's theorem needs every f_i strongly convex"):
        compose("locodl", fewer_rows, operator("natural"))
    with pytest.raises(ValueError, match="locodl needs an unbiased operator"):
        compose("locodl", small(2, 4), operator("topk(density=0.5)"))
    with pytest.raises(ValueError, match="without a theorem there is no p; leave out the step"):
        compose("locodl", small(2, 4), operator("topk(density=0.5)"), step=0.1)
