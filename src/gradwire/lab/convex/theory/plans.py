"""The parameters that a theorem prescribes for a method, and the Lyapunov function V of its proof.

A plan states E V(next) <= rate * V + noise for one round from any state. V is one of three functions: Distance, in
which the iterates approach x*; Gap, in which the values approach f(x*); or Consensus, in which the workers' own points
approach x*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SOURCE = "Shulgin and Richtárik 2022, arXiv:2206.10452; constants derived here"


@dataclass(frozen=True)
class Distance:
    """V = |x - x*|^2 + sum_i weights_i |h_i - a_i|^2, where h_i are the shifts before the exchange at x.

    a_i is the ideal shift: grad f_i(x*), or x* - gamma grad f_i(x*) if iterates are compressed. Empty weights are
    zeros. One round adds at most sum_i noise_i |h_i - a_i|^2.
    """

    weights: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()
    gamma: float | None = None

    def __call__(self, x: Tensor, h: Tensor | None, best: Tensor, best_gradients: Tensor) -> Tensor:
        """f[..., d], f[..., n, d], f[d], f[n, d] -> f[...]. Shifts of None are zeros."""
        return (x - best).square().sum(-1) + self._spread(self.weights, h, best, best_gradients)

    def added(self, h: Tensor | None, best: Tensor, best_gradients: Tensor) -> Tensor:
        """The most that a round adds to V: f[..., n, d], f[d], f[n, d] -> f[...]."""
        return self._spread(self.noise, h, best, best_gradients)

    def _spread(self, weights: tuple[float, ...], h: Tensor | None, best: Tensor, best_gradients: Tensor) -> Tensor:
        if not weights:
            return best.new_zeros(())
        wanted = best_gradients if self.gamma is None else best - self.gamma * best_gradients
        errors = (wanted if h is None else h - wanted).square().sum(-1)
        return (errors * errors.new_tensor(weights)).sum(-1)


@dataclass(frozen=True)
class Gap:
    """V = f(x) - f(x*) + each * (1/n) sum_i |h_i - grad f_i(x)|^2 + mean * |(1/n) sum_i h_i - grad f(x)|^2.

    h_i is the method's estimate of worker i's gradient, after the exchange at x if `after`, else before it.
    """

    each: float = 0.0
    mean: float = 0.0
    after: bool = True

    def __call__(self, gap: Tensor | float, h: Tensor, gradients: Tensor) -> Tensor:
        """f(x) - f(x*) f[...], f[..., n, d], grad f_i(x) f[..., n, d] -> f[...]."""
        errors = h - gradients
        return gap + self.each * errors.square().sum(-1).mean(-1) + self.mean * errors.mean(-2).square().sum(-1)


@dataclass(frozen=True)
class Consensus:
    """V = sum_i |x_i - x*|^2 + n |y - x*|^2 + weight (sum_i |u_i - u_i*|^2 + n |v - v*|^2), for local steps.

    v* = split x* and u_i* = grad f_i(x*) - v*.
    """

    weight: float
    split: float

    def __call__(self, x: Tensor, y: Tensor, u: Tensor, v: Tensor, best: Tensor, best_gradients: Tensor) -> Tensor:
        """f[..., n, d], f[..., d], f[..., n, d], f[..., d], f[d], f[n, d] -> f[...]."""
        common = self.split * best
        points = _squares(x - best, y - best)
        return points + self.weight * _squares(u - (best_gradients - common), v - common)


@dataclass(frozen=True, kw_only=True)
class TheoryPlan:
    """Parameters under which a theorem holds, and its guarantee. A parameter that the method does not have is None.

    method: its name in METHODS. theorem: its source. step: the step size, x -= step * mean.
    rate: the expected factor of V in a round; 1 without strong convexity, where V only does not grow. For local steps
    it is tau^(1/p): a local step contracts V by tau, and a round has 1/p of them on average.
    lyapunov: V; None if no theorem was proved here.

    alpha: step of a shift along a message; DASHA's a. p: probability of a round with uncompressed gradients, or of a
    message after a local step (LoCoDL).
    gamma: length of the gradient step whose result is compressed (GDCI, VR-GDCI); for other methods the step itself.
    eta: weight of the compressed iterate, so that step = eta * gamma (GDCI, VR-GDCI); weight of the newest gradient
    (EF21-SGDM); relative bias of the operator (EF-BV). lam, nu: EF-BV's. weight: M; the shifts' error has the weight
    M gamma^2 in V, or M eta^2 (VR-GDCI). rho: step of the points towards their estimated mean; split: the curvature of
    the function that all workers know (LoCoDL).
    """

    method: str
    theorem: str
    step: float
    rate: float
    lyapunov: Distance | Gap | Consensus | None
    gamma: float
    alpha: float | None = None
    p: float | None = None
    eta: float | None = None
    lam: float | None = None
    nu: float | None = None
    weight: float | None = None
    rho: float | None = None
    split: float | None = None

    def rounds(self, eps: float) -> float:
        """The number of rounds after which E V is at most eps times its initial value (plus the neighbourhood).

        Raises:
            ValueError: eps is not in (0, 1), or the theorem gives no linear rate.
        """
        if not 0 < eps < 1:
            raise ValueError(f"eps must lie in (0, 1), got {eps}")
        if self.rate >= 1:
            raise ValueError(f"{self.method} is promised no linear rate without strong convexity: mu = 0")
        return math.log(eps) / math.log(self.rate) if self.rate > 0 else 1.0

    def neighbourhood(self, best: Tensor, best_gradients: Tensor, h: Tensor | None = None) -> Tensor:
        """The theorem's bound on the limit of E V: f[d], f[n, d], shifts f[n, d] (None: zeros) -> f[].

        It is positive for GDCI, DCGD and DCGD-FIXED, where |x - x*|^2 ends within (2 gamma / mu) (1/n^2) sum_i omega_i
        |grad f_i(x*) - h_i|^2; it is 0 for methods that converge to x*.
        """
        if not isinstance(self.lyapunov, Distance) or not self.lyapunov.noise:
            return torch.zeros((), dtype=best.dtype, device=best.device)
        return self.lyapunov.added(h, best, best_gradients) / (1 - self.rate)


def _squares(each: Tensor, common: Tensor) -> Tensor:
    """sum_i |each_i|^2 + n |common|^2: f[..., n, d], f[..., d] -> f[...]."""
    return each.square().sum((-2, -1)) + each.shape[-2] * common.square().sum(-1)


def slower(x: float, alpha: float, boost: float, omegas: tuple[float, ...]) -> float:
    """The slower contraction: the iterates' x, or the shifts' 1 - alpha + alpha / boost, unless all omegas are 0."""
    return max(x, 1 - alpha * (1 - 1 / boost)) if any(omegas) else x
