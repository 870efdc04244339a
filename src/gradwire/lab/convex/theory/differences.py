"""Compressed differences of gradients: MARINA and DASHA. f need not be convex; mu > 0 requires only the PL inequality.

With L~ the root mean square of the L_i, which the papers' proofs use for the differences:

MARINA (Gorbunov et al. 2021, arXiv:2102.07845). If gamma <= 1 / (L + L~ sqrt((1 - p) omega / (p n))), V with
    mean = gamma / (2 p) does not grow. Under PL and gamma <= min{1 / (L + L~ sqrt(2 (1 - p) omega / (p n))),
    p / (2 mu)}, V with mean = gamma / p contracts by 1 - gamma mu.
DASHA (Tyurin and Richtárik 2022, arXiv:2202.01268). With a = 1 / (2 omega + 1), if
    gamma <= 1 / (L + L~ sqrt(16 omega (2 omega + 1) / n)), V with mean = gamma / a and each = 2 gamma omega / n does
    not grow. Under PL and also gamma <= a / (2 mu), V with each = 4 gamma omega / n contracts by 1 - gamma mu (derived
    here).
"""

from __future__ import annotations

import math

from gradwire.lab.convex.theory.constants import Constants, PerWorker, in_range
from gradwire.lab.convex.theory.plans import Gap, TheoryPlan


def marina(constants: Constants, *, omega: PerWorker | None, p: float | None = None) -> TheoryPlan:
    """MARINA: with probability p, by default 1 / (1 + omega), a round sends uncompressed gradients."""
    worst, n = max(constants.variances(omega, "marina")), constants.n
    p = 1 / (1 + worst) if p is None else in_range("p", p, 1.0)
    noise = (1 - p) * worst / (p * n)
    if constants.mu > 0:
        gamma = min(1 / (constants.L + constants.L_rms * math.sqrt(2 * noise)), p / (2 * constants.mu))
    else:
        gamma = 1 / (constants.L + constants.L_rms * math.sqrt(noise))
    return TheoryPlan(
        method="marina",
        theorem="MARINA (Gorbunov, Burlachenko, Li and Richtárik 2021, arXiv:2102.07845), with each L_i",
        step=gamma,
        gamma=gamma,
        rate=constants.contraction(gamma),
        lyapunov=Gap(mean=gamma / p if constants.mu > 0 else gamma / (2 * p)),
        p=p,
    )


def dasha(constants: Constants, *, omega: PerWorker | None) -> TheoryPlan:
    """DASHA: no vector is ever sent uncompressed; the fraction a (the plan's alpha) of past errors is corrected."""
    worst, n = max(constants.variances(omega, "dasha")), constants.n
    a = 1 / (2 * worst + 1)
    gamma = 1 / (constants.L + constants.L_rms * math.sqrt(16 * worst / (a * n)))
    if constants.mu > 0:
        gamma = min(gamma, a / (2 * constants.mu))
    return TheoryPlan(
        method="dasha",
        theorem="DASHA (Tyurin and Richtárik 2022, arXiv:2202.01268)",
        step=gamma,
        gamma=gamma,
        rate=constants.contraction(gamma),
        lyapunov=Gap(each=(4 if constants.mu > 0 else 2) * gamma * worst / n, mean=gamma / a),
        alpha=a,
    )
