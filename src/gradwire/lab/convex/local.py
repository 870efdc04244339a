"""Local steps with control variates, and a compressed exchange now and then: LoCoDL (arXiv:2403.04348).

Worker i keeps its own point x_i and all keep a common point y. A round is a random number of gradient steps, the same
for all workers and 1 / p on average, and one exchange of the differences x_i - y: any unbiased operator, gathered.
The control variates u_i and v take the place of the gradients at x*, so that all points stay at x* once they are there.
The theory module states both steps and the theorem. It covers strongly convex f_i and full gradients, and nothing else:
with the identity and p < 1 it is in the manner of Scaffnew (Mishchenko et al. 2022, arXiv:2202.09357), with the identity
and p = 1 it is gradient descent of step gamma / 2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.lab.averager import Averager
from gradwire.lab.convex.problems import Problem
from gradwire.layout import Layout, Turn
from gradwire.vector import Sent


@dataclass(frozen=True)
class Local:
    """Parameters of local steps, as `theory.locodl` gives them.

    p: probability of an exchange after a step. alpha: share of a message by which control variates follow it. rho: share
    by which points move to their mean. split: curvature of the function of y, taken from every f_i.
    """

    p: float
    alpha: float
    rho: float
    split: float

    def steps(self, turn: Turn) -> int:
        """Local steps of a round: geometric, the same for all workers."""
        if self.p == 1:
            return 1
        uniform = torch.rand((), generator=turn.fork("steps").rng(shared=True), dtype=torch.float64).item()
        return 1 + int(math.log1p(-uniform) / math.log1p(-self.p))


@dataclass(frozen=True)
class Points:
    """What the workers of this process hold: x, u f[workers here, d], and y, v f[d], which are the same everywhere."""

    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor

    def step_(self, gradients: Tensor, gamma: float, split: float) -> None:
        """One local step, in place, by the gradients of the f_i at x, f[workers here, d]."""
        self.x.mul_(1 + gamma * split).sub_(gradients - self.u, alpha=gamma)
        self.y.mul_(1 - gamma * split).add_(self.v, alpha=gamma)

    def meet_(self, sent: Sent, gamma: float, local: Local) -> None:
        """What an exchange of x - y changes, in place."""
        own, mean = sent.own.dense(), sent.mean.dense() / 2
        self.x.lerp_(self.y + mean, local.rho)
        self.y.add_(mean, alpha=local.rho)
        self.u.add_(mean - own, alpha=local.p * local.alpha / gamma)
        self.v.add_(mean, alpha=local.p * local.alpha / gamma)


def common_points(
    problem: Problem, local: Local, gamma: float, averager: Averager, seed: int, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Yield y, f64[d], after every round, without end. Messages have the dtype."""
    everyone = problem.start.repeat(problem.n, 1)  # rows of workers in other processes are not used
    gradients, here = torch.empty_like(everyone), slice(averager.workers.start, averager.workers.stop)
    points = Points(
        everyone[here], problem.start.clone(), torch.zeros_like(everyone[here]), torch.zeros_like(problem.start)
    )
    layout = Layout(["x"], [(problem.d,)])
    for k in itertools.count():
        for _ in range(local.steps(Turn(0, problem.n, k, layout, seed))):
            points.step_(problem.gradients(everyone, gradients)[here], gamma, local.split)
        sent = averager.send((points.x - points.y).to(dtype), k, points.y.to(dtype))
        points.meet_(sent, gamma, local)
        yield points.y
