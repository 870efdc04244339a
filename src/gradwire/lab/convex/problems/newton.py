"""The minimum to the last digits: Newton's method, damped far from the minimum and refined near it."""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.lab.convex.problems.problem import Objective

TOLERANCE = 1e-12
"""A gradient with at most this norm counts as zero."""

STEEPEST = 1e12
"""The largest L / mu for which float64 can represent the minimum."""

SHORTEST = 2.0**-10
"""The smallest fraction of a Newton step to try."""


def minimise(f: Objective, d: int, L: float, mu: float) -> Tensor:
    """Find f's minimum f64[d], starting from zero.

    The gradient's norm there is at most 1e-12, or 16 eps L |x| if that is larger: neighbouring float64 points are
    eps |x| apart, and the gradient changes by up to L times that between them.

    Raises:
        ValueError: f is not strongly convex, or L / mu is too large.
        ArithmeticError: the method ends with a larger gradient.
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
    """Step along the Newton direction, halving the step until the gradient shrinks enough.

    Returns the new point and gradient, or None if no step helps, which rounding causes in the end. Full steps that are
    repeated beyond the digits of one solve act as iterative refinement.
    """
    direction, norm, fraction = f.newton(x, g), _norm(g), 1.0
    while fraction >= SHORTEST:
        candidate = x - fraction * direction
        gradient = _gradient(f, candidate)
        if _norm(gradient) <= (1 - fraction / 4) * norm and norm > 0:
            return candidate, gradient
        fraction /= 2
    return None
