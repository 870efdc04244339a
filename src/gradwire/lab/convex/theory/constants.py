"""The constants of a problem and of operators that theorems use, and the checks that they are in range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

PerWorker: TypeAlias = float | Sequence[float]
"""One number for all workers, or one for each."""

ROUNDING = 1 + 1e-9  # tolerance, as constants come from eigenvalues computed in floating point


@dataclass(frozen=True)
class Constants:
    """The constants of f = (1/n) sum_i f_i, where worker i has f_i.

    Theorems that need mu > 0 also need convex f_i.

    Args:
        L: f is L-smooth.
        L_i: f_i is L_i-smooth; one value for each worker.
        mu: f is mu-strongly convex; 0 if it is not strongly convex.
        mu_i: f_i is mu_i-strongly convex; zeros by default. Only local steps use them.

    Raises:
        ValueError: a constant is not positive (mu, mu_i: negative) or not finite, L exceeds the mean of the L_i, mu
            exceeds L, or a mu_i its L_i.
    """

    L: float
    L_i: Sequence[float]
    mu: float = 0.0
    mu_i: Sequence[float] = ()

    def __post_init__(self) -> None:
        L, L_i, mu = float(self.L), tuple(float(value) for value in self.L_i), float(self.mu)
        if not L_i:
            raise ValueError("L_i needs one constant per worker, got none")
        for name, value in (("L", L), *(("every L_i", value) for value in L_i)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        mean = sum(L_i) / len(L_i)
        if mean * ROUNDING < L:
            raise ValueError(f"L can be at most the mean of the L_i, for f is the mean of the f_i: {mean}, got {L}")
        if not 0 <= mu <= ROUNDING * L:
            raise ValueError(f"mu must lie in [0, L] = [0, {L}], got {mu}")
        mu_i = tuple(float(value) for value in self.mu_i) or (0.0,) * len(L_i)
        if len(mu_i) != len(L_i) or not all(0 <= m <= ROUNDING * L for m, L in zip(mu_i, L_i, strict=True)):
            raise ValueError(f"mu_i needs one constant in [0, L_i] for each of {len(L_i)} workers, got {mu_i}")
        for name, value in (("L", L), ("L_i", L_i), ("mu", mu), ("mu_i", mu_i)):
            object.__setattr__(self, name, value)

    @property
    def n(self) -> int:
        """The number of workers."""
        return len(self.L_i)

    @property
    def L_max(self) -> float:
        """The largest L_i."""
        return max(self.L_i)

    @property
    def L_rms(self) -> float:
        """The root mean square of the L_i: L with a tilde in the papers on EF21."""
        return math.sqrt(sum(value**2 for value in self.L_i) / self.n)

    def conservative(self) -> Constants:
        """The same constants with L and every L_i replaced by the largest L_i, as in many papers; steps never grow."""
        return Constants(self.L_max, (self.L_max,) * self.n, self.mu, self.mu_i)

    def contraction(self, gamma: float) -> float:
        """1 - gamma mu, the contraction of a round of gradient descent with step gamma <= 1 / L."""
        return max(0.0, 1 - gamma * self.mu)

    def convexity(self, method: str) -> float:
        """Return mu; ValueError if it is 0."""
        if self.mu == 0:
            raise ValueError(
                f"{method}'s theorem needs a strongly convex f, and mu = 0: add an l2 penalty, or use ef21, ef_bv, "
                "marina or dasha, which do without"
            )
        return self.mu

    def weakest(self, method: str) -> float:
        """Return the smallest mu_i; ValueError if it is 0."""
        if self.convexity(method) and min(self.mu_i) == 0:
            raise ValueError(
                f"{method}'s theorem needs every f_i strongly convex, not only their mean, and the smallest mu_i = 0: "
                "add an l2 penalty, or use diana, which does without"
            )
        return min(self.mu_i)

    def variances(self, omega: PerWorker | None, method: str) -> tuple[float, ...]:
        """Return omega of each worker's unbiased operator; ValueError for None, which means a biased operator."""
        if omega is None:
            raise ValueError(
                f"{method} needs an unbiased operator, and omega = None says that this one is biased: use ef21 or "
                "ef_bv, or generalised_diana with induced(C, Q), where an unbiased Q corrects it"
            )
        return self._each(omega, "omega", math.inf)

    def contractions(self, delta: PerWorker | None) -> tuple[float, ...]:
        """Return delta of each worker's contractive operator; None counts as 0, the delta of the zero operator."""
        return self._each(0.0 if delta is None else delta, "delta", 1.0)

    def _each(self, values: PerWorker, name: str, most: float) -> tuple[float, ...]:
        each = (float(values),) * self.n if isinstance(values, int | float) else tuple(float(v) for v in values)
        if len(each) != self.n:
            raise ValueError(f"{name} needs one value for all or one for each of {self.n} workers, got {len(each)}")
        for value in each:
            if not (0 <= value <= most and value < math.inf):
                raise ValueError(f"{name} must lie in [0, {'infinity)' if most == math.inf else '1]'}, got {value}")
        return each


def in_range(name: str, value: float, most: float, why: str = "") -> float:
    """Return a parameter as a float; ValueError if it is outside (0, most], up to rounding."""
    if not 0 < value <= most * ROUNDING:
        raise ValueError(f"{name} must lie in (0, {most:.6g}]{why and f', {why}'}, got {value}")
    return min(float(value), most)


def above_one(boost: float) -> float:
    """Return a boost, which is the Lyapunov weight divided by its infimum; ValueError if it is not above 1."""
    if not 1 < boost < math.inf:
        raise ValueError(f"boost must be greater than 1 and finite, for at 1 the shifts do not contract, got {boost}")
    return float(boost)
