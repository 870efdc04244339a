"""Compressed iterates: GDCI and VR-GDCI (Shulgin and Richtárik 2022, arXiv:2206.10452), constants derived here.

Workers compress T_i(x) = x - gamma grad f_i(x), and x+ = (1 - eta) x + eta * mean of the messages. With
    (1/n) sum_i |T_i(x) - T_i(x*)|^2 <= |x - x*|^2 - 2 gamma <grad f(x), x - x*> + 2 gamma^2 L_max D,
and t the factor of that sum in the variance divided by eta^2,
    E |x+ - x*|^2 <= rate |x - x*|^2 - 2 eta gamma D [(1 + eta t) - eta gamma (L + t L_max)] + the shifts' term,
    rate = 1 - eta (gamma mu + eta t (gamma mu - 1)),  which is 1 - eta at gamma = 1 / mu and smaller above.

T5  GDCI. t = 2 omega / n, eta <= 1 / (kappa + t (kappa_max - 1)), 1/mu <= gamma <= (1 + eta t) / (eta (L + t L_max)):
    a round adds (2 eta^2 omega / n) (1/n) sum_i |T_i(x*)|^2.
T6  VR-GDCI. t = 2 (1 + b) omega / n, b > 1, eta and gamma likewise, alpha <= 1 / (1 + omega):
    V = |x - x*|^2 + (2 b eta^2 omega / (alpha n)) (1/n) sum_i |h_i - T_i(x*)|^2
    contracts by max{rate, 1 - alpha + alpha / b}.
At the largest eta the interval of gamma is the point 1 / mu, and the step along the gradient is
eta gamma = 1 / (L + t (L_max - mu)).
"""

from __future__ import annotations

from dataclasses import dataclass

from gradwire.lab.convex.theory.constants import ROUNDING, Constants, PerWorker, above_one, in_range
from gradwire.lab.convex.theory.plans import SOURCE, Distance, TheoryPlan, slower


def gdci(
    constants: Constants, *, omega: PerWorker | None, eta: float | None = None, gamma: float | None = None
) -> TheoryPlan:
    """GDCI, T5. By default eta is the largest possible and gamma = 1 / mu; for a given eta, gamma is the largest."""
    omegas, n = constants.variances(omega, "gdci"), constants.n
    lengths = _lengths(constants, 2 * max(omegas) / n, eta, gamma, "gdci")
    noise = tuple(2 * lengths.eta**2 * omega / n**2 for omega in omegas)
    return TheoryPlan(
        method="gdci",
        theorem=f"GDCI ({SOURCE})",
        step=lengths.eta * lengths.gamma,
        gamma=lengths.gamma,
        rate=lengths.rate,
        lyapunov=Distance(noise=noise, gamma=lengths.gamma),
        eta=lengths.eta,
    )


def vr_gdci(
    constants: Constants,
    *,
    omega: PerWorker | None,
    alpha: float | None = None,
    eta: float | None = None,
    gamma: float | None = None,
    boost: float = 2.0,
) -> TheoryPlan:
    """VR-GDCI, T6. Defaults are gdci's and alpha = 1 / (1 + omega); boost is the shifts' weight over its infimum."""
    omegas, n, boost = constants.variances(omega, "vr_gdci"), constants.n, above_one(boost)
    limit = 1 / (1 + max(omegas))
    alpha = limit if alpha is None else in_range("alpha", alpha, limit, "the end being 1 / (1 + omega)")
    lengths = _lengths(constants, 2 * (1 + boost) * max(omegas) / n, eta, gamma, "vr_gdci")
    weight = 2 * boost / (n * alpha)
    return TheoryPlan(
        method="vr_gdci",
        theorem=f"VR-GDCI ({SOURCE})",
        step=lengths.eta * lengths.gamma,
        gamma=lengths.gamma,
        rate=slower(lengths.rate, alpha, boost, omegas),
        lyapunov=Distance(tuple(weight * lengths.eta**2 * omega / n for omega in omegas), gamma=lengths.gamma),
        alpha=alpha,
        eta=lengths.eta,
        weight=weight,
    )


@dataclass(frozen=True)
class _Lengths:
    eta: float
    gamma: float
    rate: float


def _lengths(constants: Constants, t: float, eta: float | None, gamma: float | None, method: str) -> _Lengths:
    """Choose eta and gamma, or check the given ones; ValueError if they are out of range."""
    mu = constants.convexity(method)
    limit = mu / (constants.L + t * (constants.L_max - mu))
    chosen = limit if eta is None else in_range("eta", eta, limit, f"the end being {method}'s largest")
    low = 1 / mu
    high = max(low, (1 + chosen * t) / (chosen * (constants.L + t * constants.L_max)))
    if gamma is None:
        gamma = low if eta is None else high
    if not low / ROUNDING <= gamma <= high * ROUNDING:
        raise ValueError(f"gamma must lie in [{low:.6g}, {high:.6g}] for eta = {chosen:.6g}, got {gamma}")
    excess = gamma * mu - 1
    return _Lengths(chosen, min(max(gamma, low), high), max(0.0, 1 - chosen * (1 + excess * (1 + chosen * t))))
