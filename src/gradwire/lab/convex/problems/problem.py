"""The form of every problem: an objective, its constants, a start and the minimum."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Objective(Protocol):
    """The workers' functions f_1, ..., f_n, whose mean is f. All tensors are float64."""

    def gradients(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Every worker's full gradient: one point f64[d], or one per worker f64[n, d] -> f64[n, d].

        If `out` f64[n, d] is given, it is written and returned.
        """
        ...

    def loss(self, x: Tensor) -> float:
        """f at a point f64[d]."""
        ...

    def newton(self, x: Tensor, g: Tensor) -> Tensor:
        """Solve H s = g for f's Hessian H at x: f64[d], f64[d] -> f64[d]."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """The problem of minimising f(x) = (1/n) sum of f_i(x).

    f is L-smooth and mu-strongly convex. L_i, mu_i: f64[n]; f_i is L_i-smooth and mu_i-strongly convex, mu_i >= 0.
    start: x^0, f64[d]. best: x*, f64[d].
    """

    name: str
    objective: Objective = field(repr=False)
    L: float
    L_i: Tensor = field(repr=False)
    mu: float
    mu_i: Tensor = field(repr=False)
    start: Tensor = field(repr=False)
    best: Tensor = field(repr=False)

    @property
    def n(self) -> int:
        """The number of workers."""
        return len(self.L_i)

    @property
    def d(self) -> int:
        """The dimension."""
        return len(self.best)

    def gradients(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Every worker's full gradient: one point f64[d], or one per worker f64[n, d] -> f64[n, d].

        If `out` f64[n, d] is given, it is written and returned. At 80 MB, allocating a new result takes as long as
        computing it.
        """
        return self.objective.gradients(x, out)

    def loss(self, x: Tensor) -> float:
        """f at a point f64[d]."""
        return self.objective.loss(x)

    @cached_property
    def best_gradients(self) -> Tensor:
        """Every worker's gradient at the minimum, f64[n, d]; their mean is zero."""
        return self.gradients(self.best)


def start(d: int, rng: torch.Generator) -> Tensor:
    """x^0, f64[d], with coordinates from N(0, 10), variance 10, as in Shulgin and Richtárik 2022 (arXiv:2206.10452)."""
    return torch.randn(d, generator=rng, dtype=torch.float64) * 10**0.5
