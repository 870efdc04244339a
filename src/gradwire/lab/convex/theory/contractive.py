"""Contractive operators: EF21, EF-BV and EF21-SGDM. f need not be convex; mu > 0 requires only the PL inequality.

The proofs combine f(x+) <= f(x) - (gamma/2) |grad f(x)|^2 - (1/(2 gamma) - L/2) |x+ - x|^2
+ (gamma/2) |g - grad f(x)|^2 with a recursion for the shifts' error. With L~ the root mean square of the L_i:

EF21 (Richtárik, Sokolov and Fatkhullin 2021, arXiv:2106.05203). theta = 1 - sqrt(1 - delta), beta = (1 - delta)/theta.
    If gamma <= 1 / (L + L~ sqrt(beta / theta)), V with each = gamma / (2 theta) does not grow. Under PL and
    gamma <= min{1 / (L + L~ sqrt(2 beta / theta)), theta / (2 mu)}, V with each = gamma / theta contracts by
    1 - gamma mu.
EF-BV (Condat, Yi and Richtárik 2022, arXiv:2205.04180). With |E C(x) - x| <= eta |x|,
    E |C(x) - E C(x)|^2 <= omega |x|^2, r = (1 - lam + lam eta)^2 + lam^2 omega,
    r_av = (1 - nu + nu eta)^2 + nu^2 omega_av and s = sqrt((1 + r)/(2 r)) - 1: if
    gamma <= 1 / (L + L~ sqrt(r_av / r) / s), V with each = gamma r_av / (2 r s (1 + s)) contracts by
    max{1 - gamma mu, (1 + r)/2}.
"""

from __future__ import annotations

import math

from gradwire.compress.protocol import Compressor
from gradwire.compress.scaled import Scaled
from gradwire.lab.convex.theory.constants import Constants, in_range
from gradwire.lab.convex.theory.plans import Gap, TheoryPlan


def ef21(constants: Constants, *, delta: float | None) -> TheoryPlan:
    """EF21: shifts move by whole messages, alpha = 1. `delta` belongs to the operator in use."""
    delta = _delta(delta, "ef21")
    theta, left = 1 - math.sqrt(1 - delta), math.sqrt(1 - delta)
    ratio = left / theta  # the square root of beta / theta
    if constants.mu > 0:
        gamma = min(1 / (constants.L + constants.L_rms * math.sqrt(2) * ratio), theta / (2 * constants.mu))
    else:
        gamma = 1 / (constants.L + constants.L_rms * ratio)
    return TheoryPlan(
        method="ef21",
        theorem="EF21 (Richtárik, Sokolov and Fatkhullin 2021, arXiv:2106.05203)",
        step=gamma,
        gamma=gamma,
        rate=constants.contraction(gamma),
        lyapunov=Gap(each=gamma / theta if constants.mu > 0 else gamma / (2 * theta)),
        alpha=1.0,
    )


def ef_bv(
    constants: Constants,
    *,
    omega: float | None,
    eta: float = 0.0,
    omega_av: float | None = None,
    lam: float | None = None,
    nu: float | None = None,
) -> TheoryPlan:
    """EF-BV for operators with bias eta and variance omega (see `spread`).

    omega_av: the variance of the operators' mean, by default omega / n. By default lam and nu are optimal:
    (1 - eta) / ((1 - eta)^2 + omega), for nu with omega_av, and at most 1.
    """
    if omega is None:
        raise ValueError("ef_bv takes the bias eta and the variance omega of an operator: see spread(compressor, d)")
    if not 0 <= eta < 1:
        raise ValueError(f"eta, the relative bias, must lie in [0, 1), got {eta}")
    omega = max(constants.variances(omega, "ef_bv"))
    omega_av = omega / constants.n if omega_av is None else max(constants.variances(omega_av, "ef_bv"))
    lam = _best(eta, omega) if lam is None else in_range("lam", lam, 1.0)
    nu = _best(eta, omega_av) if nu is None else in_range("nu", nu, 1.0)
    r, r_av = _rest(lam, eta, omega), _rest(nu, eta, omega_av)
    if r >= 1:
        raise ValueError(f"lam must be below {2 * _best(eta, omega, math.inf):.6g} for shifts to contract, got {lam}")
    # near = sqrt(r) s and far = sqrt(r) (1 + s), which unlike s are finite for r = 0.
    far = math.sqrt((1 + r) / 2)
    near = far - math.sqrt(r)
    gamma = 1 / (constants.L + constants.L_rms * math.sqrt(r_av) / near)
    slow = max(constants.contraction(gamma), (1 + r) / 2 if r_av > 0 else 0.0)
    return TheoryPlan(
        method="ef_bv",
        theorem="EF-BV (Condat, Yi and Richtárik 2022, arXiv:2205.04180)",
        step=gamma,
        gamma=gamma,
        rate=slow,
        lyapunov=Gap(each=gamma * r_av / (2 * near * far), after=False),
        eta=eta,
        lam=lam,
        nu=nu,
    )


def ef21_sgdm(constants: Constants, *, delta: float | None, eta: float = 0.1) -> TheoryPlan:
    """EF21-SGDM (Fatkhullin et al. 2023, arXiv:2305.15155); eta is the weight of the newest gradient.

    gamma = min{delta / (20 L~), eta / (7 L)} is recalled from the paper and not verified, so there is no V and no rate.
    """
    delta, eta = _delta(delta, "ef21_sgdm"), in_range("eta", eta, 1.0)
    gamma = min(delta / (20 * constants.L_rms), eta / (7 * constants.L))
    return TheoryPlan(
        method="ef21_sgdm",
        theorem="EF21-SGDM (Fatkhullin, Tyurin and Richtárik 2023, arXiv:2305.15155), as recalled; unverified",
        step=gamma,
        gamma=gamma,
        rate=1.0,
        lyapunov=None,
        alpha=1.0,
        eta=eta,
    )


def spread(compressor: Compressor, d: int, *, deterministic: bool = False) -> tuple[float, float]:
    """Bias and variance (eta, omega) of an operator in dimension d, as `ef_bv` takes them.

    |E C(x) - x| <= eta |x| and E |C(x) - E C(x)|^2 <= omega |x|^2. Both are exact for unbiased operators, and for
    Scaled ones: omega / (1 + omega) and omega / (1 + omega)^2. For a contractive operator only
    eta^2 + omega <= 1 - delta is known, so each is bounded by that; with `deterministic`, for an operator without
    randomness, omega = 0.

    Raises:
        ValueError: the operator is biased and may expand.
    """
    omega, delta = compressor.omega(d), compressor.delta(d)
    if omega is not None:
        return 0.0, omega
    if isinstance(compressor, Scaled):
        inner = compressor.compressor.omega(d) or 0.0
        return inner / (1 + inner), inner / (1 + inner) ** 2
    if delta is None:
        raise ValueError(f"{compressor} is biased and may expand a vector of {d} elements: no theorem covers it")
    return math.sqrt(1 - delta), 0.0 if deterministic else 1 - delta


def _delta(delta: float | None, method: str) -> float:
    if delta is None:
        raise ValueError(
            f"{method} needs a contractive operator, and delta = None says that this one may expand a vector: "
            "scaled(...) makes an unbiased one contract, or use diana"
        )
    return in_range("delta", delta, 1.0)


def _best(eta: float, omega: float, most: float = 1.0) -> float:
    """The step along a message that minimises `_rest`, at most `most`."""
    return min((1 - eta) / ((1 - eta) ** 2 + omega), most)


def _rest(step: float, eta: float, omega: float) -> float:
    """The factor of the squared error after a step along a message: r for lam, r_av for nu."""
    return (1 - step + step * eta) ** 2 + step**2 * omega
