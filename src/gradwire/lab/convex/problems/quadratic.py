"""Quadratics f_i(x) = 1/2 (x - c_i)' A_i (x - c_i) with diagonal A_i, whose average has a chosen spectrum.

Coordinates are eigenvectors, which favours operators that select coordinates; ridge regression has dense eigenvectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.lab.checks import check_count, check_number
from gradwire.lab.convex.problems.newton import minimise
from gradwire.lab.convex.problems.problem import Problem, start


@dataclass(frozen=True, eq=False)
class Diagonal:
    """An `Objective`. a: f64[n, d], positive, the diagonals of the A_i. c: f64[n, d], the minimum of each f_i."""

    a: Tensor
    c: Tensor

    def gradients(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Every worker's gradient: one point f64[d], or one per worker f64[n, d] -> f64[n, d]."""
        return torch.sub(x, self.c, out=out).mul_(self.a)

    def loss(self, x: Tensor) -> float:
        """f at a point f64[d]."""
        return (self.a * (x - self.c).square()).sum(1).mean().item() / 2

    def newton(self, x: Tensor, g: Tensor) -> Tensor:
        """Solve H s = g: divide by the average diagonal."""
        return g / self.a.mean(0)


def Quadratic(n: int = 10, d: int = 80, condition: float = 100.0, heterogeneity: float = 1.0, seed: int = 0) -> Problem:
    """A quadratic: the average of the A_i has eigenvalues from 1 down to 1 / condition, evenly spaced on a log scale.

    With heterogeneity h = 0 all workers are equal. Otherwise the workers' minima are c_i = c + h N(0, 1), and an
    eigenvalue of worker i is the average's times exp(h N(0, 1)), normalised over the workers. c ~ N(0, 1) and
    x^0 ~ N(0, 10), variance 10.
    """
    check_count("n", n)
    check_count("d", d)
    check_number("condition", condition, 1)
    check_number("heterogeneity", heterogeneity, 0)
    rng = torch.Generator().manual_seed(seed)
    x = start(d, rng)
    c, moved, stretched = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((d,), (n, d), (n, d)))
    spectrum = torch.logspace(0, -math.log10(condition), d, dtype=torch.float64)
    a = n * (heterogeneity * stretched).softmax(0) * spectrum
    f = Diagonal(a, c + heterogeneity * moved)
    L, mu = a.mean(0).max().item(), a.mean(0).min().item()
    return Problem("quadratic", f, L, a.amax(1), mu, a.amin(1), x, minimise(f, d, L, mu))
