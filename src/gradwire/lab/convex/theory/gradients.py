"""Compressed gradients with shifts: the theorems on DCGD-SHIFT (Shulgin and Richtárik 2022, arXiv:2206.10452).

Constants are derived here, with each worker's own L_i where the paper has L_max. All proofs use
    E |g|^2 <= |grad f(x)|^2 + (1/n^2) sum_i omega_i |grad f_i(x) - h_i|^2,
    |grad f_i(x) - grad f_i(x*)|^2 <= 2 L_i D_i,    <grad f(x), x - x*> >= D + (mu/2) |x - x*|^2,
where D_i is the Bregman divergence of f_i between x and x*, and D is their mean. With s_i = grad f_i(x*):

T1  DCGD, DCGD-FIXED. gamma <= 1 / (L + (2/n) max omega_i L_i):
    E |x+ - x*|^2 <= (1 - gamma mu) |x - x*|^2 + (2 gamma^2 / n^2) sum_i omega_i |s_i - h_i|^2.
T2  DCGD-STAR, shifts s_i + C_i(grad f_i(x) - s_i). gamma <= 1 / (L + (1/n) max omega_i (1 - delta_i) L_i):
    E |x+ - x*|^2 <= (1 - gamma mu) |x - x*|^2.
T3  DIANA. alpha <= 1 / (1 + omega_i), M = 2 b / (n alpha), b > 1, gamma <= 1 / (L + (2/n + M alpha) max omega_i L_i):
    V = |x - x*|^2 + M gamma^2 (1/n) sum_i omega_i |h_i - s_i|^2 contracts by max{1 - gamma mu, 1 - alpha + 2/(n M)}.
    Generalised DIANA: the same with the variance omega_i (1 - delta_i) of the induced operators.
T4  Rand-DIANA. M = 2 b max omega_i / (n p), gamma <= 1 / (L + (2/n) max omega_i L_i + M p L_max):
    V = |x - x*|^2 + M gamma^2 (1/n) sum_i |h_i - s_i|^2 contracts by max{1 - gamma mu, 1 - p + 2 max omega_i/(n M)}.

Operators of different workers, and the C and Q of one worker, must draw independent randomness.
"""

from __future__ import annotations

from dataclasses import replace

from gradwire.lab.convex.theory.constants import Constants, PerWorker, above_one, in_range
from gradwire.lab.convex.theory.plans import SOURCE, Distance, TheoryPlan, slower


def dcgd(constants: Constants, *, omega: PerWorker | None) -> TheoryPlan:
    """DCGD, with shifts of zero: T1. It ends in a neighbourhood of x* unless every worker's gradient is zero at x*."""
    return replace(_fixed(constants, omega, "dcgd"), theorem=f"DCGD ({SOURCE})")


def dcgd_fixed(constants: Constants, *, omega: PerWorker | None) -> TheoryPlan:
    """DCGD-FIXED, with constant shifts: T1. The neighbourhood shrinks as the shifts approach the gradients at x*."""
    return _fixed(constants, omega, "fixed")


def dcgd_star(constants: Constants, *, omega: PerWorker | None, delta: PerWorker | None = None) -> TheoryPlan:
    """DCGD-STAR: T2. `delta` belongs to C in the shift; None means that the shifts are the gradients at x*."""
    constants.convexity("star")
    left = _left(constants.variances(omega, "star"), constants.contractions(delta))
    gamma = 1 / (constants.L + _largest(left, constants) / constants.n)
    return TheoryPlan(
        method="star",
        theorem=f"DCGD-STAR ({SOURCE})",
        step=gamma,
        gamma=gamma,
        rate=constants.contraction(gamma),
        lyapunov=Distance(),
    )


def diana(
    constants: Constants, *, omega: PerWorker | None, alpha: float | None = None, boost: float = 2.0
) -> TheoryPlan:
    """DIANA: T3. By default alpha = 1 / (1 + omega) and M = 4 / (n alpha); boost is M divided by its infimum."""
    return _diana(constants, constants.variances(omega, "diana"), alpha, boost, "diana")


def generalised_diana(
    constants: Constants,
    *,
    omega: PerWorker | None,
    delta: PerWorker | None,
    alpha: float | None = None,
    boost: float = 2.0,
) -> TheoryPlan:
    """Generalised DIANA with induced(C, Q): T3 with `delta` of C and `omega` of Q. Options are diana's."""
    if delta is None:
        raise ValueError(
            "generalised_diana needs the delta of the contractive operator that it corrects, and delta = None says "
            "that it may expand a vector: use diana with the unbiased operator alone"
        )
    left = _left(constants.variances(omega, "generalised_diana"), constants.contractions(delta))
    return _diana(constants, left, alpha, boost, "generalised_diana")


def rand_diana(
    constants: Constants, *, omega: PerWorker | None, p: float | None = None, boost: float = 2.0
) -> TheoryPlan:
    """Rand-DIANA: T4. By default p = 1 / (1 + omega) and M = 4 omega / (n p); boost is M divided by its infimum.

    The theorem is the same for one coin common to all workers and for a coin per worker.
    """
    constants.convexity("rand_diana")
    omegas, boost = constants.variances(omega, "rand_diana"), above_one(boost)
    p = 1 / (1 + max(omegas)) if p is None else in_range("p", p, 1.0)
    weight = 2 * boost * max(omegas) / (constants.n * p)
    gamma = 1 / (constants.L + 2 * _largest(omegas, constants) / constants.n + weight * p * constants.L_max)
    shifts = (weight * gamma**2 / constants.n,) * constants.n
    return TheoryPlan(
        method="rand_diana",
        theorem=f"Rand-DIANA ({SOURCE})",
        step=gamma,
        gamma=gamma,
        rate=slower(constants.contraction(gamma), p, boost, omegas),
        lyapunov=Distance(shifts),
        p=p,
        weight=weight,
    )


def _fixed(constants: Constants, omega: PerWorker | None, method: str) -> TheoryPlan:
    constants.convexity(method)
    omegas, n = constants.variances(omega, method), constants.n
    gamma = 1 / (constants.L + 2 * _largest(omegas, constants) / n)
    return TheoryPlan(
        method=method,
        theorem=f"DCGD-FIXED ({SOURCE})",
        step=gamma,
        gamma=gamma,
        rate=constants.contraction(gamma),
        lyapunov=Distance(noise=tuple(2 * gamma**2 * omega / n**2 for omega in omegas)),
    )


def _diana(
    constants: Constants, omegas: tuple[float, ...], alpha: float | None, boost: float, method: str
) -> TheoryPlan:
    constants.convexity(method)
    limit, boost = 1 / (1 + max(omegas)), above_one(boost)
    alpha = limit if alpha is None else in_range("alpha", alpha, limit, "the end being 1 / (1 + omega)")
    weight = 2 * boost / (constants.n * alpha)
    gamma = 1 / (constants.L + (2 / constants.n + weight * alpha) * _largest(omegas, constants))
    return TheoryPlan(
        method=method,
        theorem=f"{'DIANA' if method == 'diana' else 'generalised DIANA'} ({SOURCE})",
        step=gamma,
        gamma=gamma,
        rate=slower(constants.contraction(gamma), alpha, boost, omegas),
        lyapunov=Distance(tuple(weight * gamma**2 * omega / constants.n for omega in omegas)),
        alpha=alpha,
        weight=weight,
    )


def _left(omegas: tuple[float, ...], deltas: tuple[float, ...]) -> tuple[float, ...]:
    """The variance that Q adds to the residual of C: omega (1 - delta), for each worker."""
    return tuple(omega * (1 - delta) for omega, delta in zip(omegas, deltas, strict=True))


def _largest(omegas: tuple[float, ...], constants: Constants) -> float:
    return max(omega * L for omega, L in zip(omegas, constants.L_i, strict=True))
