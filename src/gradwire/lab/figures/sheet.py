"""The figures of shifted compression, as lists of runs. Step sizes and all parameters are those of the theorems.

They follow the experiments of Shulgin and Richtárik 2022 (arXiv:2206.10452) on problems of the same make; the numbers
are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gradwire.compress.natural_dithering import NaturalDithering
from gradwire.compress.protocol import Compressor
from gradwire.compress.randk import RandK
from gradwire.compress.topk import TopK
from gradwire.lab.figures.record import ROUNDING
from gradwire.lab.methods import Method, compose
from gradwire.lab.problems import Problem, make

PLAIN = {
    "DCGD": "dcgd",
    "DCGD-FIXED": "fixed",
    "DCGD-STAR": "star",
    "DIANA": "diana",
    "Rand-DIANA": "rand_diana",
}
"""Methods of one operator, by the names that figures show."""

BIASED = {"DCGD-STAR + Top-k": "star", "generalised DIANA": "generalised_diana"}
"""Methods that take a biased operator as well: Top-k that keeps a tenth."""

ITERATES = {"GDCI": "gdci", "VR-GDCI": "vr_gdci"}

PLATEAU = ("DCGD", "DCGD-FIXED", "GDCI")
"""Methods that end in a neighbourhood of the minimum."""


@dataclass(frozen=True)
class Task:
    """One run: in which panel under which name, and how long."""

    panel: str
    label: str
    problem: Problem
    method: Method
    rounds: int
    until: float = ROUNDING


@dataclass(frozen=True)
class Sheet:
    """A figure before its runs."""

    name: str
    title: str
    caption: str
    tasks: tuple[Task, ...]


def ridge_table(seed: int) -> Sheet:
    """All nine methods on ridge regression, down to what float64 can hold."""
    problem = make("ridge", seed=seed)
    order = ("DCGD", "DCGD-FIXED", "DCGD-STAR", "DCGD-STAR + Top-k", "DIANA", "generalised DIANA", "Rand-DIANA")
    tasks = [
        Task(f"Rand-K, K/d = {q:g}", label, problem, _method(label, problem, RandK(q)), rounds, 1e-24)
        for q, to_the_end, to_the_plateau in ((0.1, 200_000, 60_000), (0.5, 40_000, 12_000))
        for label in (*order, *ITERATES)
        for rounds in [to_the_plateau if label in PLATEAU else to_the_end]
    ]
    return Sheet("ridge-table", f"Nine methods on {_about(problem)}", _BOUND, tuple(tasks))


def randk(seed: int) -> Sheet:
    """Methods under Rand-K of three densities."""
    problem = make("ridge", seed=seed)
    panels = {f"Rand-K, K/d = {density:g}": RandK(density) for density in (0.1, 0.5, 0.9)}
    return Sheet("randk", f"Rand-K on {_about(problem)}", _BOUND, tuple(_methods(problem, panels, 60_000)))


def dithering(seed: int) -> Sheet:
    """Methods under natural dithering of three numbers of levels."""
    problem = make("ridge", seed=seed)
    panels = {f"natural dithering, s = {s}": NaturalDithering(s) for s in (2, 4, 8)}
    title = f"Natural dithering on {_about(problem)}"
    return Sheet("dithering", title, _BOUND, tuple(_methods(problem, panels, 40_000)))


def rand_diana(seed: int) -> Sheet:
    """How Rand-DIANA depends on the probability p of a restart, and on the weight M of its Lyapunov function."""
    problem, operator = make("ridge", seed=seed), RandK(0.1)
    usual = 1 / (1 + (operator.omega(problem.d) or 0.0))
    tasks = [
        Task(
            "p, with M = 4 omega / (n p)",
            f"p = {times:g} / (1 + omega)",
            problem,
            compose("rand_diana", problem, operator, p=min(1.0, times * usual)),
            60_000,
            1e-12,
        )
        for times in (0.1, 0.3, 1, 3, 10)
    ]
    tasks += [
        Task("M, with p = 1 / (1 + omega)", f"M = {b:g} M'", problem, _weighted(problem, operator, b), 60_000, 1e-12)
        for b in (0.01, 0.25, 1, 2, 8)
    ]
    caption = (
        "M' = 2 omega / (n p); theory asks for M > M'. Smaller M gives a longer step than theory covers, "
        "and up to a point a faster run."
    )
    return Sheet("rand-diana", f"Rand-DIANA's parameters on {_about(problem)}", caption, tuple(tasks))


def gdci(seed: int) -> Sheet:
    """GDCI against VR-GDCI: compressed iterates without and with shifts."""
    problem = make("ridge", seed=seed)
    tasks = [
        Task(f"Rand-K, K/d = {q:g}", label, problem, _method(label, problem, RandK(q)), rounds, 1e-15)
        for q, rounds in ((0.1, 80_000), (0.5, 20_000), (0.9, 10_000))
        for label in ITERATES
    ]
    return Sheet("gdci", f"Compressed iterates on {_about(problem)}", _BOUND, tuple(tasks))


def induced(seed: int) -> Sheet:
    """DIANA over an induced operator against plain ones, of equal density in Q and of equal bytes."""
    problem = make("ridge", seed=seed)
    tasks: list[Task] = []
    for q in (0.1, 0.3):
        panel = f"Rand-K, K/d = {q:g}"
        tasks += [
            Task(panel, "DIANA", problem, compose("diana", problem, RandK(q)), 60_000, 1e-12),
            Task(panel, "DIANA, K twice", problem, compose("diana", problem, RandK(2 * q)), 60_000, 1e-12),
            Task(
                panel,
                "generalised DIANA",
                problem,
                compose("generalised_diana", problem, RandK(q), biased=TopK(q)),
                60_000,
                1e-12,
            ),
        ]
    caption = "Generalised DIANA sends Top-K of the difference and Rand-K of what is left: about twice the bytes."
    return Sheet("induced", f"Induced operators on {_about(problem)}", caption, tuple(tasks))


def logistic(seed: int) -> Sheet:
    """Methods under Rand-K on logistic regression, real data, the rows sorted by label."""
    problem = make("a9a", workers=10, seed=seed, shards="sorted")
    panels = {f"Rand-K, K/d = {density:g}": RandK(density) for density in (0.1, 0.5)}
    title = f"Logistic regression: {_about(problem)}, sorted by label"
    return Sheet("logistic", title, _BOUND, tuple(_methods(problem, panels, 4_000)))


FIGURES: MappingProxyType[str, Callable[[int], Sheet]] = MappingProxyType(
    {
        "ridge-table": ridge_table,
        "randk": randk,
        "dithering": dithering,
        "rand-diana": rand_diana,
        "gdci": gdci,
        "induced": induced,
        "logistic": logistic,
    }
)
"""Figures that are run in this process, by name. `link` (link.py) is run on real ranks."""

_BOUND = "Step sizes, alpha, p, eta and gamma of the theorems. Bytes: what a worker sends, counted."


def sheet(name: str, seed: int) -> Sheet:
    """Make a figure's list of runs."""
    return FIGURES[name](seed)


def _methods(problem: Problem, panels: Mapping[str, Compressor], rounds: int) -> Iterable[Task]:
    """The methods of gradient compression under every operator."""
    for panel, operator in panels.items():
        for label in (*PLAIN, "generalised DIANA"):
            yield Task(panel, label, problem, _method(label, problem, operator), rounds, 1e-12)


def _method(label: str, problem: Problem, operator: Compressor) -> Method:
    """A method by the name that figures show."""
    biased = TopK(0.1) if label in BIASED else None
    return compose((PLAIN | BIASED | ITERATES)[label], problem, operator, biased=biased)


def _weighted(problem: Problem, operator: Compressor, b: float) -> Method:
    """Rand-DIANA at the step that M = b M' gives, also where b <= 1 and no theorem covers it."""
    omega = operator.omega(problem.d) or 0.0
    L_max = problem.L_i.max().item()
    step = 1 / (problem.L + 2 * omega * L_max / problem.n + b * 2 * omega * L_max / problem.n)
    return compose("rand_diana", problem, operator, step=step)


def _about(problem: Problem) -> str:
    """The problem and what makes it hard."""
    return (
        f"{problem.name} (n = {problem.n}, d = {problem.d}, condition number {problem.L / problem.mu:.0f}, "
        f"L_max / L = {(problem.L_i.max() / problem.L).item():.1f})"
    )
