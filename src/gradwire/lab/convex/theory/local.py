"""Local steps with compressed differences: LoCoDL (Condat, Maranjyan and Richtárik 2025, arXiv:2403.04348).

It assumes strongly convex f_i, full gradients, and unbiased operators with independent randomness. With
s = min mu_i / 2, half of the smallest curvature is moved from all the f_i to a function that all workers know:
    f~_i = f_i - (s/2) |x|^2 for the points x_i,    g = (s/2) |y|^2 for the common point y.
A local step, with control variates u_i and v whose weighted sum, sum_i u_i + n v, is zero:
    x_i <- x_i - gamma (grad f~_i(x_i) - u_i),    y <- y - gamma (grad g(y) - v).
With probability p a message follows the step: d_i = Q_i(x_i - y), m = (1/2n) sum_i d_i,
    x_i <- (1 - rho) x_i + rho (y + m),    u_i <- u_i + (p alpha / gamma) (m - d_i),
    y <- y + rho m,                        v <- v + (p alpha / gamma) m.

T7  rho = 1 / (1 + omega / n), alpha = rho / (1 + 2 omega), gamma = 2 / L_max:
    V = sum_i |x_i - x*|^2 + n |y - x*|^2 + (gamma^2 / (p^2 alpha)) (sum_i |u_i - u_i*|^2 + n |v - v*|^2),
    u_i* = grad f~_i(x*), v* = grad g(x*). A local step contracts V by
    tau = max{(1 - min mu_i / L_max)^2, 1 - p^2 alpha}.
    Derived here: let w be the component of (x_1, ..., x_n, y) orthogonal to the consensus space, with weight n for y.
    Then sum_i |x_i - y|^2 <= 2 |w|^2. So the update of u and v has mean w and a second moment of at most
    (1 + 2 omega) |w|^2, and that of x and y has mean w and a second moment of at most (1 + omega / n) |w|^2. The
    products of w and u - u* cancel by the choice of V's weight.

At p = sqrt((1 - (1 - min mu_i / L_max)^2) / alpha), the default, both terms are equal. The error falls by a constant
factor in O(sqrt((1 + omega) (1 + omega / n) L_max / min mu_i)) messages; without local steps, in O(kappa).
"""

from __future__ import annotations

import math

from gradwire.lab.convex.theory.constants import Constants, PerWorker, in_range
from gradwire.lab.convex.theory.plans import Consensus, TheoryPlan


def locodl(constants: Constants, *, omega: PerWorker | None, p: float | None = None) -> TheoryPlan:
    """LoCoDL: T7. By default p is the smallest for which the messages do not limit the rate."""
    weakest = constants.weakest("locodl")
    worst = max(constants.variances(omega, "locodl"))
    rho = 1 / (1 + worst / constants.n)
    alpha, gamma = rho / (1 + 2 * worst), 2 / constants.L_max
    points = (1 - weakest / constants.L_max) ** 2
    p = min(1.0, math.sqrt((1 - points) / alpha)) if p is None else in_range("p", p, 1.0)
    return TheoryPlan(
        method="locodl",
        theorem="LoCoDL (Condat, Maranjyan and Richtárik 2025, arXiv:2403.04348), constants derived here",
        step=gamma,
        gamma=gamma,
        rate=max(points, 1 - p**2 * alpha) ** (1 / p),
        lyapunov=Consensus(weight=gamma**2 / (p**2 * alpha), split=weakest / 2),
        alpha=alpha,
        p=p,
        rho=rho,
        split=weakest / 2,
    )
