"""The minimum to the last digits: Newton's method, damped far from it, refined near it."""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.lab.convex.problems.problem import Objective

TOLERANCE = 1e-12
"""Norm of the gradient that counts as zero."""

STEEPEST = 1e12
"""L / mu beyond which float64 knows no minimum."""

SHORTEST = 2.0**-10
"""Fraction of a Newton step below which nothing more is gained."""


def minimise(f: Objective, d: int, L: float, mu: float) -> Tensor:
    """Find f's minimum f64[d], from zero.

    The gradient's norm there is at most 1e-12, or 16 eps L |x| where that is more: neighbours in float64 lie eps |x|
    apart, and the gradient changes by up to L times that from one to the next.

    Raises:
        ValueError: f is not strongly convex, or hardly.
        ArithmeticError: the method ends at a larger gradient.
    """
    if not 0 < L <= STEEPEST * mu:
        raise ValueError(f"f must be strongly convex, L / mu at most {STEEPEST:g}, got L = {L:.3g} and mu = {mu:.3g}")
    x = torch.zeros(d, dtype=torch.float64)
    g = _gradient(f, x)
    for _ in range(100):
        nearer = _step(f, x, g)
        if nearer is None:
            break
        x, g = nearer
    norm, allowed = _norm(g), max(TOLERANCE, 16 * torch.finfo(torch.float64).eps * L * _norm(x))
    if not norm <= allowed:
        raise ArithmeticError(f"the minimum was not reached: the gradient's norm is {norm:.3g}, above {allowed:.3g}")
    return x


def _norm(vector: Tensor) -> float:
    return vector.dot(vector).sqrt().item()


def _gradient(f: Objective, x: Tensor) -> Tensor:
    return f.gradients(x).mean(0)


def _step(f: Objective, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor] | None:
    """Go along the Newton direction until the gradient shrinks: the new point and gradient, None if it never does.

    Rounding ends it: repeated beyond the digits of one solve, full steps are iterative refinement.
    """
    direction, norm, fraction = f.newton(x, g), _norm(g), 1.0
    while fraction >= SHORTEST:
        candidate = x - fraction * direction
        gradient = _gradient(f, candidate)
        if _norm(gradient) <= (1 - fraction / 4) * norm and norm > 0:
            return candidate, gradient
        fraction /= 2
    return None
