"""Ridge regression: f(x) = 1/2 |Ax - y|^2 + penalty / 2 |x|^2, the rows of A split over the workers.

As f = (1/n) sum of f_i, f_i(x) = n/2 |A_i x - y_i|^2 + penalty / 2 |x|^2. The defaults are those of the experiments in
Shulgin and Richtárik 2022 (arXiv:2206.10452): scikit-learn's make_regression, m = 100, d = 80, n = 10, penalty = 1/m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.lab.checks import check_count, check_number
from gradwire.lab.convex.problems.linear import Linear, spectrum, split
from gradwire.lab.convex.problems.newton import minimise
from gradwire.lab.convex.problems.problem import Problem, start
from gradwire.lab.convex.problems.samples import scikit_learn
from gradwire.lab.convex.problems.shards import Shards, check_shards


class Squares:
    """phi(z) = z^2 / 2."""

    def value(self, z: Tensor) -> Tensor:
        """z^2 / 2."""
        return z.square() / 2

    def slope_(self, z: Tensor) -> Tensor:
        """Return z, which is the derivative."""
        return z

    def curvature(self, z: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(z)


def Ridge(
    m: int = 100,
    d: int = 80,
    n: int = 10,
    penalty: float | None = None,
    noise: float = 0.0,
    shards: Shards = "shuffled",
    seed: int = 0,
) -> Problem:
    """Ridge regression on m rows in dimension d from make_regression(random_state=seed), split over n workers.

    penalty: 1/m by default. noise: standard deviation of the noise added to y. shards: "shuffled" keeps the generator's
    random order; "sorted" sorts by y. L, L_i, mu and mu_i are exact, from eigenvalues. x^0 ~ N(0, 10), variance 10,
    with the same seed.
    """
    check_count("m", m)
    check_count("d", d)
    check_shards(shards, m, n)
    check_number("noise", noise, 0)
    penalty = 1 / m if penalty is None else penalty
    check_number("penalty", penalty, 0)
    a, y = _regression(m, d, noise, seed)
    if shards == "sorted":
        order = y.argsort(stable=True)
        a, y = a[order], y[order]
    eigenvalues = spectrum(a) + penalty
    L, mu = eigenvalues[-1].item(), eigenvalues[0].item() if m >= d else penalty
    f = Linear(Squares(), split(a, n), split(-y, n), 1.0, penalty)
    x = start(d, torch.Generator().manual_seed(seed))
    of_workers = n * spectrum(f.rows)
    L_i = of_workers[:, -1] + penalty
    mu_i = of_workers[:, 0] + penalty if f.rows.shape[1] >= d else torch.full_like(L_i, penalty)
    return Problem("ridge", f, L, L_i, mu, mu_i, x, minimise(f, d, L, mu))


def _regression(m: int, d: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    a, y = scikit_learn().make_regression(n_samples=m, n_features=d, noise=noise, random_state=seed)
    return torch.tensor(a, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
