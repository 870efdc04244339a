"""Local steps with compressed differences: LoCoDL (Condat, Maranjyan and Richtárik 2025, arXiv:2403.04348).

Strongly convex f_i, full gradients, unbiased operators that draw independently. With s = min mu_i / 2, half of the
weakest worker's curvature is taken from all the f_i and given to a function that all workers know:
    f~_i = f_i - (s/2) |x|^2 for the points x_i,    g = (s/2) |y|^2 for the common point y.
A local step, with control variates u_i and v whose weighted sum, sum_i u_i + n v, is zero:
    x_i <- x_i - gamma (grad f~_i(x_i) - u_i),    y <- y - gamma (grad g(y) - v).
With probability p a message follows it: d_i = Q_i(x_i - y), m = (1/2n) sum_i d_i,
    x_i <- (1 - rho) x_i + rho (y + m),    u_i <- u_i + (p alpha / gamma) (m - d_i),
    y <- y + rho m,                        v <- v + (p alpha / gamma) m.

T7  rho = 1 / (1 + omega / n), alpha = rho / (1 + 2 omega), gamma = 2 / L_max:
    V = sum_i |x_i - x*|^2 + n |y - x*|^2 + (gamma^2 / (p^2 alpha)) (sum_i |u_i - u_i*|^2 + n |v - v*|^2),
    u_i* = grad f~_i(x*), v* = grad g(x*). A local step leaves tau = max{(1 - min mu_i / L_max)^2, 1 - p^2 alpha} of V.
    Derived here: let w be the part of (x_1, ..., x_n, y) that is orthogonal to all points being equal, y with weight n.
    Then sum_i |x_i - y|^2 <= 2 |w|^2, so that what u and v receive is w with a second moment of at most
    (1 + 2 omega) |w|^2, and what x and y receive is w with one of at most (1 + omega / n) |w|^2. The products of w and
    u - u* cancel by the choice of V's weight.

At p = sqrt((1 - (1 - min mu_i / L_max)^2) / alpha), the default, both terms are equal. An error falls by a constant
factor in the order of sqrt((1 + omega) (1 + omega / n) L_max / min mu_i) messages; without local steps, kappa.
"""

from __future__ import annotations

import math

from gradwire.lab.convex.theory.constants import Constants, PerWorker, in_range
from gradwire.lab.convex.theory.plans import Consensus, TheoryPlan


def locodl(constants: Constants, *, omega: PerWorker | None, p: float | None = None) -> TheoryPlan:
    """LoCoDL: T7. By default p is the smallest at which the messages do not slow the points down."""
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
