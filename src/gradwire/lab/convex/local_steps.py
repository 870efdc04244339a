"""Local steps with control variates, and a compressed exchange at the end of each round: LoCoDL (arXiv:2403.04348).

Worker i has its own point x_i, and all workers have a common point y. A round is a random number of gradient steps, the
same for all workers and 1 / p on average, and one exchange of the differences x_i - y, compressed by any unbiased
operator and gathered. The control variates u_i and v cancel the gradients at x*, so that x* is a fixed point.
`theory.locodl` has the theorem, which covers only strongly convex f_i, full gradients and unbiased operators. With the
identity and p < 1 the method has the form of Scaffnew (Mishchenko et al. 2022, arXiv:2202.09357); with the identity and
p = 1 it is gradient descent with step gamma / 2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.exchange.protocol import Exchange, State, nest, tensor
from gradwire.lab.averager import Averager
from gradwire.lab.convex.problems import Problem
from gradwire.layout import Layout, Turn
from gradwire.vector import Sent


@dataclass(frozen=True)
class LocalDescent:
    """The parameters of local steps, from `theory.locodl`.

    p: probability of an exchange after a step. alpha: step of the control variates along a message. rho: step of the
    points towards their mean. split: curvature of y's function, which is subtracted from every f_i.
    """

    p: float
    alpha: float
    rho: float
    split: float

    def steps(self, turn: Turn) -> int:
        """Draw the number of local steps of a round: geometric with parameter p, the same for all workers."""
        if self.p == 1:
            return 1
        uniform = torch.rand((), generator=turn.fork("steps").rng(shared=True), dtype=torch.float64).item()
        return 1 + int(math.log1p(-uniform) / math.log1p(-self.p))


@dataclass(frozen=True)
class Summed:
    """An exchange that keeps sums of its messages in its state: h of a worker's `own`, mean_h of the means.

    The control variates are multiples of the sums: u_i = c (mean_h / 2 - h_i) and v = c mean_h / 2.
    """

    exchange: Exchange

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        """Make both sums, zero: h [*batch_shape, d] and mean_h [d]."""
        h = torch.zeros((*batch_shape, layout.d), dtype=dtype, device=device)
        mean_h = torch.zeros(layout.d, dtype=dtype, device=device)
        return {"h": h, "mean_h": mean_h, "inner": self.exchange.init(layout, dtype, device, batch_shape)}

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        """Exchange x, and add the messages to the sums in place."""
        sent = await self.exchange(x, nest(state, "inner"), turn)
        sent.own.add_to_(tensor(state, "h"))
        sent.mean.add_to_(tensor(state, "mean_h"))
        return sent

    def omega(self, d: int) -> float | None:
        """The inner exchange's omega."""
        return self.exchange.omega(d)

    def delta(self, d: int) -> float | None:
        """The inner exchange's delta."""
        return self.exchange.delta(d)


@dataclass(frozen=True)
class Points:
    """The points and control variates of the workers in this process.

    x, u: f[workers in this process, d]. y, v: f[d], the same on all workers.
    """

    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor

    def step_(self, gradients: Tensor, gamma: float, split: float) -> None:
        """Make one local step in place, with the gradients of the f_i at x, f[workers in this process, d]."""
        self.x.mul_(1 + gamma * split).sub_(gradients - self.u, alpha=gamma)
        self.y.mul_(1 - gamma * split).add_(self.v, alpha=gamma)

    def meet_(self, mean: Tensor, states: Sequence[State], gamma: float, local: LocalDescent) -> None:
        """Apply an exchange of x - y in place, given its mean f[d] and the states of `Summed` after it."""
        self.x.lerp_(self.y + mean / 2, local.rho)
        self.y.add_(mean, alpha=local.rho / 2)
        h = torch.cat([tensor(state, "h").view(-1, len(mean)) for state in states])
        factor = local.p * local.alpha / gamma
        self.v.copy_(tensor(states[0], "mean_h")).mul_(factor / 2)
        self.u.copy_(h).mul_(-factor).add_(self.v)


def local_points(
    problem: Problem, local: LocalDescent, gamma: float, averager: Averager, seed: int, dtype: torch.dtype
) -> Iterator[Points]:
    """Run rounds forever; yield the same `Points` object after each. Messages have `dtype`."""
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
        points.meet_(sent.mean.dense().to(points.y.dtype), averager.states, gamma, local)
        yield points
