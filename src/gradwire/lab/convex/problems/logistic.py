"""Logistic regression: f(x) = (1/m) sum of log(1 + exp(-b_j a_j . x)) + penalty / 2 |x|^2, rows split over the workers.

As f = (1/n) sum of f_i, a row has the weight n/m in its worker's f_i, whatever the worker's number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gradwire.lab.checks import check_number
from gradwire.lab.convex.problems.linear import Linear, spectrum, split
from gradwire.lab.convex.problems.newton import minimise
from gradwire.lab.convex.problems.problem import Problem
from gradwire.lab.convex.problems.samples import Samples, svmlight
from gradwire.lab.convex.problems.shards import Shards, check_shards

CONDITION = 100.0
"""The default condition number L / mu, customary in the literature."""


class Softplus:
    """phi(z) = log(1 + exp(z)); at z = -inf, phi and its derivatives are zero."""

    bound = 0.25
    """The largest second derivative."""

    def value(self, z: Tensor) -> Tensor:
        """log(1 + exp(z)) without overflow; torch's softplus is only linear above 20."""
        return -torch.nn.functional.logsigmoid(-z)

    def slope_(self, z: Tensor) -> Tensor:
        """1 / (1 + exp(-z)), in place."""
        return z.sigmoid_()

    def curvature(self, z: Tensor) -> Tensor:
        """s (1 - s), where s is the slope."""
        return z.sigmoid() * (-z).sigmoid()


def Logistic(
    load: Callable[[], Samples],
    n: int = 10,
    penalty: float | None = None,
    condition: float | None = None,
    shards: Shards = "shuffled",
    seed: int = 0,
) -> Problem:
    """Logistic regression on samples split over n workers, shuffled by the seed or sorted by label; x^0 = 0.

    Give the penalty or the condition number L / mu, which is 100 by default. L and L_i follow from the largest
    eigenvalues of A'A and the bound 1/4 on phi''; mu is the penalty, which bounds the curvature from below everywhere.

    Raises:
        ValueError: penalty and condition are both given, or an argument is out of range.
    """
    _check_condition(penalty, condition)
    samples = load()
    m, d = samples.features.shape
    check_shards(shards, m, n)
    order = samples.labels.argsort(stable=True)
    if shards == "shuffled":
        order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    rows = -(samples.labels.unsqueeze(1) * samples.features)[order]
    steepest = Softplus.bound / m * spectrum(rows)[-1].item()
    # (steepest + penalty) / penalty = condition
    mu = penalty if penalty is not None else steepest / ((condition or CONDITION) - 1)
    f = Linear(Softplus(), split(rows, n), split(torch.zeros(m, dtype=torch.float64), n, -math.inf), 1 / m, mu)
    L, L_i = steepest + mu, n * Softplus.bound / m * spectrum(f.rows)[:, -1] + mu
    start = torch.zeros(d, dtype=torch.float64)
    return Problem(samples.name, f, L, L_i, mu, torch.full_like(L_i, mu), start, minimise(f, d, L, mu))


def LibSVM(
    path: str | Path,
    n: int = 10,
    penalty: float | None = None,
    condition: float | None = None,
    shards: Shards = "shuffled",
    seed: int = 0,
) -> Problem:
    """Logistic regression on a file in LIBSVM's format with two labels; other arguments as in `Logistic`."""
    return Logistic(partial(svmlight, path), n, penalty, condition, shards, seed)


def _check_condition(penalty: float | None, condition: float | None) -> None:
    """Raise ValueError if both are given, if the penalty is not positive, or if the condition is not above 1."""
    if penalty is not None and condition is not None:
        raise ValueError(f"give the penalty or the condition, not both: got {penalty!r} and {condition!r}")
    if penalty is not None:
        check_number("penalty", penalty, 0, above=True)
    if condition is not None:
        check_number("condition", condition, 1, above=True)
