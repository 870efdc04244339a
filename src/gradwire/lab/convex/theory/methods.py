"""Theory plans by the name of the method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType

from gradwire.lab.checks import check_name
from gradwire.lab.convex.theory.constants import Constants, PerWorker
from gradwire.lab.convex.theory.contractive import ef21, ef21_sgdm, ef_bv
from gradwire.lab.convex.theory.differences import dasha, marina
from gradwire.lab.convex.theory.gradients import dcgd, dcgd_fixed, dcgd_star, diana, generalised_diana, rand_diana
from gradwire.lab.convex.theory.iterates import gdci, vr_gdci
from gradwire.lab.convex.theory.local import locodl
from gradwire.lab.convex.theory.plans import TheoryPlan

METHODS: Mapping[str, Callable[..., TheoryPlan]] = MappingProxyType(
    {
        "dcgd": dcgd,
        "fixed": dcgd_fixed,
        "star": dcgd_star,
        "diana": diana,
        "generalised_diana": generalised_diana,
        "rand_diana": rand_diana,
        "gdci": gdci,
        "vr_gdci": vr_gdci,
        "ef21": ef21,
        "ef_bv": ef_bv,
        "marina": marina,
        "dasha": dasha,
        "ef21_sgdm": ef21_sgdm,
        "locodl": locodl,
    }
)
"""Methods that have a theorem, by name."""

WITHOUT: Mapping[str, str] = MappingProxyType(
    {
        "ef14": "ef14 has no plan: its theorems ask for bounded gradients, or for a bound on how far the workers' "
        "gradients are apart, which L, L_i and mu do not give; ef21 and ef_bv take the same operators and need neither",
    }
)
"""Methods without a theorem, with the reason."""


def plan(
    method: str,
    constants: Constants,
    *,
    omega: PerWorker | None = None,
    delta: PerWorker | None = None,
    conservative: bool = False,
    **options: float | None,
) -> TheoryPlan:
    """Compute the parameters of a method, such as "rand_diana", by its theorem.

    Args:
        method: a name in METHODS.
        constants: the problem's constants.
        omega: variance of the unbiased operator; None if the operator is biased.
        delta: contraction of the contractive operator: the one in use (EF21), or C in the shift (STAR) or in
            induced(C, Q) (generalised DIANA). A method ignores omega or delta if its theorem does not use it.
        conservative: use the largest L_i in place of L and of every L_i. Steps get shorter, never longer.
        options: parameters of the method: alpha, p, eta, gamma, lam, nu, omega_av, boost.

    Raises:
        ValueError: the method is unknown or has no theorem, it does not have an option, or the theorem does not cover
            the numbers.
    """
    if method in WITHOUT:
        raise ValueError(WITHOUT[method])
    check_name("method", method, METHODS)
    takes = list(inspect.signature(METHODS[method]).parameters)[1:]
    if unknown := [name for name in options if name not in takes]:
        raise ValueError(f"{method} takes {', '.join(takes)}, got {', '.join(unknown)}")
    operator = {name: value for name, value in (("omega", omega), ("delta", delta)) if name in takes}
    return METHODS[method](constants.conservative() if conservative else constants, **operator, **options)
