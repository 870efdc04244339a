"""The verdict: predicted steps of all methods, ranked; the bandwidth up to which each pays; compress or not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gradwire.advice.link import Link
from gradwire.advice.pace import Pace
from gradwire.advice.timeline import step_seconds
from gradwire.advice.work import UnitWork

CANDIDATES = (
    "ef(topk(density=0.01, values='natural'))",
    "ef(topk(density=0.01))",
    "ef(deft(density=0.01))",
    "ef(topk(density=0.05, values='natural'))",
)
"""The default candidates. None has a density below 1 %, where convergence begins to suffer in our runs."""

DENSE = "dense"

MARGIN = 0.85
"""Compression is recommended below this fraction of dense's predicted step; predictions may be off by a tenth."""

SLOWEST, FASTEST = 1e3, 1e12
"""Bounds of the search for a crossover, in bytes a second."""


@dataclass(frozen=True)
class Method:
    """The prediction for a method.

    seconds: of a step; inf if it could not be predicted. traffic: bytes a step on the busiest rank's link. crossover:
    the bandwidth in bytes a second above which dense is at least as fast; inf if it never is, 0 if it always is, None
    for dense itself. refusal: why it could not be predicted, or "".
    """

    name: str
    seconds: float
    traffic: float = 0.0
    crossover: float | None = None
    refusal: str = ""


@dataclass(frozen=True)
class Verdict:
    """The methods by predicted step, the fastest first, and the name of the recommended one."""

    methods: tuple[Method, ...]
    choice: str

    def of(self, name: str) -> Method:
        """The method of this name."""
        return next(method for method in self.methods if method.name == name)

    @property
    def sentence(self) -> str:
        """The advice in one sentence."""
        plain, best = self.of(DENSE), self.of(self.choice)
        if best is not plain:
            ratio = f"{plain.seconds / best.seconds:.2g} times as fast"
            return f"{best.name}: {_ms(best)} a step against {_ms(plain)} dense, {ratio}"
        others = [method for method in self.methods if method is not plain and math.isfinite(method.seconds)]
        if not others:
            return f"do not compress: {_ms(plain)} a step dense, and no other method could be predicted"
        return f"do not compress: {_ms(plain)} a step dense, and {others[0].name} would take {_ms(others[0])}"


def predict(pace: Pace, units: Sequence[UnitWork], link: Link) -> float:
    """Predict the seconds of a step: the median over the rehearsed steps."""
    steps = max((len(unit.courses) for unit in units), default=1)

    def one(step: int) -> float:
        jobs = sorted((unit.job(step, pace, link) for unit in units), key=lambda job: job.ready)
        return step_seconds(pace.compute, jobs, link.share, pace.tail)

    return statistics.median(one(step) for step in range(steps))


def crossover(seconds: Callable[[float], float], plain: Callable[[float], float]) -> float:
    """The bandwidth in bytes a second above which `plain` is at least as fast: 0 if it always is, inf if never.

    Both functions return the seconds of a step at a bandwidth. Their difference must change sign at most once.
    """
    if seconds(SLOWEST) >= plain(SLOWEST):
        return 0.0
    if seconds(FASTEST) < plain(FASTEST):
        return math.inf
    low, high = math.log(SLOWEST), math.log(FASTEST)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds(math.exp(middle)) < plain(math.exp(middle)) else (low, middle)
    return math.exp(low)


def judge(methods: Sequence[Method]) -> Verdict:
    """Rank the methods and recommend the fastest if it is below `MARGIN` of dense's step, else dense."""
    ranked = tuple(sorted(methods, key=lambda method: method.seconds))
    plain = next(method for method in ranked if method.name == DENSE)
    best = ranked[0]
    return Verdict(ranked, best.name if best.seconds < MARGIN * plain.seconds else DENSE)


def weigh(pace: Pace, work: Mapping[str, Sequence[UnitWork] | str], link: Link) -> list[Method]:
    """Predict every method from its units' work; a string in its place is the reason why it has none.

    Raises:
        ValueError: dense has no work.
    """
    plain = work[DENSE]
    if isinstance(plain, str):
        raise ValueError(f"dense must be predicted first: {plain}")
    return [_weigh(name, units, plain, pace, link) for name, units in work.items()]


def predicted(name: str, units: Sequence[UnitWork] | str, pace: Pace, link: Link) -> Method:
    """Predict one method from its units' work, or refuse it for the given reason; the crossover is not computed."""
    if isinstance(units, str):
        return Method(name, math.inf, refusal=units)
    return Method(name, predict(pace, units, link), sum(unit.traffic for unit in units))


def _weigh(name: str, units: Sequence[UnitWork] | str, plain: Sequence[UnitWork], pace: Pace, link: Link) -> Method:
    method = predicted(name, units, pace, link)
    if isinstance(units, str) or name == DENSE:
        return method

    def at(beta: float, units: Sequence[UnitWork] = units) -> float:
        return predict(pace, units, link.at(beta))

    return replace(method, crossover=crossover(at, lambda beta: at(beta, plain)))


def _ms(method: Method) -> str:
    return f"{1e3 * method.seconds:.4g} ms"
