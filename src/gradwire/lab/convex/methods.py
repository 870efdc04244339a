"""Methods by name: the parameters that theory prescribes for a problem and an operator, and the exchange to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor

from gradwire.compress.induced import Induced
from gradwire.compress.protocol import Compressor
from gradwire.exchange.gathered import Gathered
from gradwire.exchange.mean import Mean
from gradwire.exchange.protocol import Exchange
from gradwire.lab.checks import check_name
from gradwire.lab.convex import theory
from gradwire.lab.convex.local_steps import LocalDescent, Summed
from gradwire.lab.convex.problems import Problem
from gradwire.memory.difference import DASHA, MARINA
from gradwire.memory.ef import EF
from gradwire.memory.iterates import GDCI, VRGDCI
from gradwire.memory.momentum import EF21SGDM
from gradwire.memory.shift import DIANA, EF21, EFBV, Fixed, RandDIANA, Shifted


@dataclass(frozen=True)
class ConvexMethod:
    """A method that is ready to run: its exchange, step size, initial shifts f[n, d] and theory.

    plan: None if the caller gave the step and no theorem covers the method. local: None if all workers compute their
    gradients at the same point.
    """

    name: str
    exchange: Exchange
    step: float
    plan: theory.TheoryPlan | None
    shifts: Tensor | None = field(default=None, repr=False)
    local: LocalDescent | None = None


@dataclass(frozen=True)
class Parts:
    """Arguments of a constructor. operator: Q. biased: the C of STAR and generalised DIANA."""

    problem: Problem
    operator: Compressor
    biased: Compressor | None
    plan: theory.TheoryPlan | None

    @property
    def sender(self) -> Compressor:
        """The operator Q, or induced(C, Q) if there is a C."""
        return self.operator if self.biased is None else Induced(self.biased, self.operator)

    def optional(self, name: str) -> float | None:
        """A parameter that the plan prescribes; None, for the exchange's default, without a plan."""
        return None if self.plan is None else getattr(self.plan, name)

    def need(self, name: str) -> float:
        """A parameter for which the exchange has no default; ValueError if there is no plan."""
        value = self.optional(name)
        if value is None:
            raise ValueError(f"without a theorem there is no {name}; leave out the step, so that theory gives both")
        return value


Make: TypeAlias = Callable[[Parts], Exchange]

_MAKE: Mapping[str, Make] = MappingProxyType(
    {
        "gd": lambda parts: Mean(),
        "dcgd": lambda parts: Gathered(parts.operator),
        "fixed": lambda parts: Shifted(Gathered(parts.operator), Fixed()),
        "star": lambda parts: Shifted(Gathered(parts.sender), Fixed()),
        "diana": lambda parts: DIANA(Gathered(parts.operator), parts.optional("alpha")),
        "generalised_diana": lambda parts: DIANA(Gathered(parts.sender), parts.optional("alpha")),
        "rand_diana": lambda parts: RandDIANA(Gathered(parts.operator), parts.optional("p")),
        "gdci": lambda parts: GDCI(Gathered(parts.operator), parts.need("gamma")),
        "vr_gdci": lambda parts: VRGDCI(Gathered(parts.operator), parts.need("gamma"), parts.optional("alpha")),
        "ef14": lambda parts: EF(Gathered(parts.operator)),
        "ef21": lambda parts: EF21(Gathered(parts.operator)),
        "ef_bv": lambda parts: EFBV(Gathered(parts.operator), parts.need("lam"), parts.need("nu")),
        "marina": lambda parts: MARINA(Gathered(parts.operator), parts.optional("p")),
        "dasha": lambda parts: DASHA(Gathered(parts.operator), parts.optional("alpha")),
        "ef21_sgdm": lambda parts: EF21SGDM(Gathered(parts.operator), parts.need("eta")),
        "locodl": lambda parts: Summed(Gathered(parts.operator)),
    }
)

METHODS: tuple[str, ...] = tuple(_MAKE)
"""Names for `compose`. "gd" is gradient descent without compression."""


def compose(
    name: str,
    problem: Problem,
    operator: Compressor,
    *,
    biased: Compressor | None = None,
    step: float | None = None,
    conservative: bool = False,
    **options: float,
) -> ConvexMethod:
    """Make a method for a problem, with the parameters of its theorem.

    Args:
        name: one of METHODS.
        problem: provides the constants, and the gradients that are the initial shifts of FIXED and STAR.
        operator: Q, or the contractive operator of the EF family.
        biased: C, contractive: in the shift of STAR, and in induced(C, Q) of generalised DIANA.
        step: the step size to use instead of the theorem's; the other parameters stay those of theory.
        conservative: use only the largest L_i in the theory.
        options: parameters of the theorem that replace its defaults: alpha, p, eta, gamma, boost and so on.

    Raises:
        ValueError: an unknown name, an operator that the method or its theory does not take, or a C that is missing or
            not used.
    """
    check_name("method", name, METHODS)
    if biased is not None and name not in ("star", "generalised_diana"):
        raise ValueError(f"{name} takes one operator; only star and generalised_diana take a biased one beside it")
    if biased is None and name == "generalised_diana":
        raise ValueError("generalised_diana needs a biased operator beside the unbiased one; without, it is diana")
    if step is not None and not 0 < step < float("inf"):
        raise ValueError(f"step must be positive and finite, got {step}")
    plan = _plan(name, problem, operator, biased, conservative, options, needed=step is None)
    parts = Parts(problem, operator, biased, plan)
    exchange = _MAKE[name](parts)
    chosen = step if step is not None or plan is None else plan.step
    if chosen is None:
        raise ValueError(f"{name} has no theorem that would give a step; give one")
    return ConvexMethod(name, exchange, chosen, plan, _shifts(name, problem), _local(name, parts))


def constants(problem: Problem) -> theory.Constants:
    """The constants of a problem, in the form that theorems take."""
    return theory.Constants(problem.L, list(map(float, problem.L_i)), problem.mu, list(map(float, problem.mu_i)))


def _plan(
    name: str,
    problem: Problem,
    operator: Compressor,
    biased: Compressor | None,
    conservative: bool,
    options: dict[str, float],
    *,
    needed: bool,
) -> theory.TheoryPlan | None:
    """The theorem's plan; None if no theorem covers the case and neither a step is needed nor options are given."""
    if name == "gd":
        return theory.plan("dcgd", constants(problem), omega=0.0, conservative=conservative, **options)
    d = problem.d
    omega, delta = operator.omega(d), operator.delta(d)
    if name in ("star", "generalised_diana"):
        delta = biased.delta(d) if biased is not None else None
    if name == "ef_bv":
        # By Minkowski's inequality, bias sqrt(1 - delta) without variance covers every contractive operator, also a
        # random one.
        eta, omega = theory.spread(operator, d, deterministic=True)
        options = {"eta": eta, **options}
    try:
        return theory.plan(name, constants(problem), omega=omega, delta=delta, conservative=conservative, **options)
    except ValueError:
        if needed or options:
            raise
        return None


def _shifts(name: str, problem: Problem) -> Tensor | None:
    """The initial shifts: FIXED has the gradients at the start, STAR those at the minimum, others none."""
    if name == "fixed":
        return problem.gradients(problem.start)
    return problem.best_gradients if name == "star" else None


def _local(name: str, parts: Parts) -> LocalDescent | None:
    """The parameters of local steps, from the plan; None for other methods."""
    if name != "locodl":
        return None
    return LocalDescent(parts.need("p"), parts.need("alpha"), parts.need("rho"), parts.need("split"))
