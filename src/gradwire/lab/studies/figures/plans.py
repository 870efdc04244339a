"""The figures of shifted compression, as lists of runs. Step sizes and all parameters are those of the theorems.

They follow the experiments of Shulgin and Richtárik 2022 (arXiv:2206.10452) on problems of the same kind; the numbers
are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gradwire.compress.identity import Identity
from gradwire.compress.natural import Natural
from gradwire.compress.natural_dithering import NaturalDithering
from gradwire.compress.protocol import Compressor
from gradwire.compress.randk import RandK
from gradwire.compress.topk import TopK
from gradwire.lab.convex.methods import ConvexMethod, compose
from gradwire.lab.convex.problems import Problem, make
from gradwire.lab.studies.figures.record import ROUNDING

PLAIN = {
    "DCGD": "dcgd",
    "DCGD-FIXED": "fixed",
    "DCGD-STAR": "star",
    "DIANA": "diana",
    "Rand-DIANA": "rand_diana",
}
"""Methods with one operator, by their labels in figures."""

BIASED = {"DCGD-STAR + Top-k": "star", "generalised DIANA": "generalised_diana"}
"""Methods that also take a biased operator: Top-k with density 0.1."""

ITERATES = {"GDCI": "gdci", "VR-GDCI": "vr_gdci"}

PLATEAU = ("DCGD", "DCGD-FIXED", "GDCI")
"""Methods that end in a neighbourhood of the minimum."""


@dataclass(frozen=True)
class PlannedCurve:
    """A curve before its run. rounds: the most rounds. until: the error at which to stop."""

    panel: str
    label: str
    problem: Problem
    method: ConvexMethod
    rounds: int
    until: float = ROUNDING


@dataclass(frozen=True)
class PlannedFigure:
    """A figure before its runs."""

    name: str
    title: str
    caption: str
    curves: tuple[PlannedCurve, ...]


def ridge_table(seed: int) -> PlannedFigure:
    """All nine methods on ridge regression, down to the precision of float64."""
    problem = make("ridge", seed=seed)
    order = ("DCGD", "DCGD-FIXED", "DCGD-STAR", "DCGD-STAR + Top-k", "DIANA", "generalised DIANA", "Rand-DIANA")
    curves = [
        PlannedCurve(f"Rand-K, K/d = {q:g}", label, problem, _method(label, problem, RandK(q)), rounds, 1e-24)
        for q, to_the_end, to_the_plateau in ((0.1, 200_000, 60_000), (0.5, 40_000, 12_000))
        for label in (*order, *ITERATES)
        for rounds in [to_the_plateau if label in PLATEAU else to_the_end]
    ]
    return PlannedFigure("ridge-table", f"Nine methods on {_about(problem)}", _BOUND, tuple(curves))


def randk(seed: int) -> PlannedFigure:
    """Methods with Rand-K at three densities."""
    problem = make("ridge", seed=seed)
    panels = {f"Rand-K, K/d = {density:g}": RandK(density) for density in (0.1, 0.5, 0.9)}
    return PlannedFigure("randk", f"Rand-K on {_about(problem)}", _BOUND, tuple(_methods(problem, panels, 60_000)))


def dithering(seed: int) -> PlannedFigure:
    """Methods with natural dithering at three numbers of levels."""
    problem = make("ridge", seed=seed)
    panels = {f"natural dithering, s = {s}": NaturalDithering(s) for s in (2, 4, 8)}
    title = f"Natural dithering on {_about(problem)}"
    return PlannedFigure("dithering", title, _BOUND, tuple(_methods(problem, panels, 40_000)))


def rand_diana(seed: int) -> PlannedFigure:
    """Rand-DIANA by the probability p of a new shift, and by the weight M of its Lyapunov function."""
    problem, operator = make("ridge", seed=seed), RandK(0.1)
    usual = 1 / (1 + (operator.omega(problem.d) or 0.0))
    curves = [
        PlannedCurve(
            "p, with M = 4 omega / (n p)",
            f"p = {times:g} / (1 + omega)",
            problem,
            compose("rand_diana", problem, operator, p=min(1.0, times * usual)),
            60_000,
            1e-12,
        )
        for times in (0.1, 0.3, 1, 3, 10)
    ]
    curves += [
        PlannedCurve(
            "M, with p = 1 / (1 + omega)", f"M = {b:g} M'", problem, _weighted(problem, operator, b), 60_000, 1e-12
        )
        for b in (0.01, 0.25, 1, 2, 8)
    ]
    caption = (
        "M' = 2 omega / (n p); theory asks for M > M'. Smaller M gives a longer step than theory covers, "
        "and up to a point a faster run."
    )
    return PlannedFigure("rand-diana", f"Rand-DIANA's parameters on {_about(problem)}", caption, tuple(curves))


def gdci(seed: int) -> PlannedFigure:
    """GDCI and VR-GDCI: compressed iterates without and with shifts."""
    problem = make("ridge", seed=seed)
    curves = [
        PlannedCurve(f"Rand-K, K/d = {q:g}", label, problem, _method(label, problem, RandK(q)), rounds, 1e-15)
        for q, rounds in ((0.1, 80_000), (0.5, 20_000), (0.9, 10_000))
        for label in ITERATES
    ]
    return PlannedFigure("gdci", f"Compressed iterates on {_about(problem)}", _BOUND, tuple(curves))


def induced(seed: int) -> PlannedFigure:
    """DIANA with an induced operator, compared with plain ones of equal density in Q and of equal bytes."""
    problem = make("ridge", seed=seed)
    curves: list[PlannedCurve] = []
    for q in (0.1, 0.3):
        panel = f"Rand-K, K/d = {q:g}"
        curves += [
            PlannedCurve(panel, "DIANA", problem, compose("diana", problem, RandK(q)), 60_000, 1e-12),
            PlannedCurve(panel, "DIANA, K twice", problem, compose("diana", problem, RandK(2 * q)), 60_000, 1e-12),
            PlannedCurve(
                panel,
                "generalised DIANA",
                problem,
                compose("generalised_diana", problem, RandK(q), biased=TopK(q)),
                60_000,
                1e-12,
            ),
        ]
    caption = "Generalised DIANA sends Top-K of the difference and Rand-K of what is left: about twice the bytes."
    return PlannedFigure("induced", f"Induced operators on {_about(problem)}", caption, tuple(curves))


def logistic(seed: int) -> PlannedFigure:
    """Methods with Rand-K on logistic regression with real data, whose rows are sorted by label."""
    problem = make("a9a", workers=10, seed=seed, shards="sorted")
    panels = {f"Rand-K, K/d = {density:g}": RandK(density) for density in (0.1, 0.5)}
    title = f"Logistic regression: {_about(problem)}, sorted by label"
    return PlannedFigure("logistic", title, _BOUND, tuple(_methods(problem, panels, 4_000)))


def locodl(seed: int) -> PlannedFigure:
    """Local steps and methods with one gradient a round, uncompressed and compressed, on ill-conditioned problems."""
    problems = (
        make("ridge", m=80, d=100, penalty=0.1, seed=seed),
        make("breast_cancer", condition=1e4, seed=seed),
    )
    methods = {
        "gradient descent": ("dcgd", Identity(), 80_000),
        "DIANA, natural": ("diana", Natural(), 80_000),
        "local steps, uncompressed": ("locodl", Identity(), 3_000),
        "LoCoDL, natural": ("locodl", Natural(), 3_000),
        "LoCoDL, Rand-K 50 %": ("locodl", RandK(0.5), 4_000),
        "LoCoDL, Rand-K 10 %": ("locodl", RandK(0.1), 12_000),
    }
    curves = [
        PlannedCurve(
            f"{problem.name}, L / mu = {problem.L / problem.mu:,.0f}",
            label,
            problem,
            compose(name, problem, operator),
            rounds,
            1e-12,
        )
        for problem in problems
        for label, (name, operator, rounds) in methods.items()
    ]
    caption = f"{_BOUND} A round of local steps has 1 / p gradients of every worker, one of the others has one."
    return PlannedFigure("locodl", "Local steps with control variates", caption, tuple(curves))


FIGURES: MappingProxyType[str, Callable[[int], PlannedFigure]] = MappingProxyType(
    {
        "ridge-table": ridge_table,
        "randk": randk,
        "dithering": dithering,
        "rand-diana": rand_diana,
        "gdci": gdci,
        "induced": induced,
        "logistic": logistic,
        "locodl": locodl,
    }
)
"""The figures that run in this process, by name. `link` (link.py) runs on real ranks."""

_BOUND = "Step sizes, alpha, p, eta and gamma of the theorems. Bytes: what a worker sends, counted."


def plan(name: str, seed: int) -> PlannedFigure:
    """Plan a figure by name."""
    return FIGURES[name](seed)


def _methods(problem: Problem, panels: Mapping[str, Compressor], rounds: int) -> Iterable[PlannedCurve]:
    """Plan the methods of gradient compression with every operator."""
    for panel, operator in panels.items():
        for label in (*PLAIN, "generalised DIANA"):
            yield PlannedCurve(panel, label, problem, _method(label, problem, operator), rounds, 1e-12)


def _method(label: str, problem: Problem, operator: Compressor) -> ConvexMethod:
    """Make a method by its label in figures."""
    biased = TopK(0.1) if label in BIASED else None
    return compose((PLAIN | BIASED | ITERATES)[label], problem, operator, biased=biased)


def _weighted(problem: Problem, operator: Compressor, b: float) -> ConvexMethod:
    """Rand-DIANA with the step for M = b M', also for b <= 1, which no theorem covers."""
    omega = operator.omega(problem.d) or 0.0
    L_max = problem.L_i.max().item()
    step = 1 / (problem.L + 2 * omega * L_max / problem.n + b * 2 * omega * L_max / problem.n)
    return compose("rand_diana", problem, operator, step=step)


def _about(problem: Problem) -> str:
    """Describe a problem and its conditioning."""
    return (
        f"{problem.name} (n = {problem.n}, d = {problem.d}, condition number {problem.L / problem.mu:.0f}, "
        f"L_max / L = {(problem.L_i.max() / problem.L).item():.1f})"
    )
