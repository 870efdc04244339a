"""The verdict: predicted steps of every method, ranked; from which bandwidth on each stops to pay; compress or not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gradwire.advice.link import Link
from gradwire.advice.pace import Pace
from gradwire.advice.timeline import step_seconds
from gradwire.advice.work import Errand

CANDIDATES = (
    "ef(topk(density=0.01, values='natural'))",
    "ef(topk(density=0.01))",
    "ef(deft(density=0.01))",
    "ef(topk(density=0.05, values='natural'))",
)
"""What is considered where nothing is named. None sends below 1 %, where convergence begins to suffer in our runs."""

DENSE = "dense"

MARGIN = 0.85
"""Compression is recommended below this share of dense's predicted step; predictions may be off by a tenth."""

SLOWEST, FASTEST = 1e3, 1e12
"""Bandwidths between which a crossover is sought, bytes a second."""


@dataclass(frozen=True)
class Method:
    """A method by name; its predicted step in seconds, and traffic in bytes a step on the busiest link.

    crossover: the bandwidth, in bytes a second, from which on dense is at least as fast; inf if it never is, 0 if it
    always is, None for dense itself. refusal: why it could not be predicted; its step is then infinite.
    """

    name: str
    seconds: float
    traffic: float = 0.0
    crossover: float | None = None
    refusal: str = ""


@dataclass(frozen=True)
class Verdict:
    """Methods by predicted step, the fastest first, and the one that is recommended."""

    methods: tuple[Method, ...]
    choice: str

    def of(self, name: str) -> Method:
        """One of them by name."""
        return next(method for method in self.methods if method.name == name)

    @property
    def sentence(self) -> str:
        """The advice."""
        plain, best = self.of(DENSE), self.of(self.choice)
        if best is not plain:
            ratio = f"{plain.seconds / best.seconds:.2g} times as fast"
            return f"{best.name}: {_ms(best)} a step against {_ms(plain)} dense, {ratio}"
        others = [method for method in self.methods if method is not plain and math.isfinite(method.seconds)]
        if not others:
            return f"do not compress: {_ms(plain)} a step dense, and no other method could be predicted"
        return f"do not compress: {_ms(plain)} a step dense, and {others[0].name} would take {_ms(others[0])}"


def predict(pace: Pace, errands: Sequence[Errand], link: Link) -> float:
    """Seconds of a step: the median over the rehearsed steps."""
    steps = max((len(errand.courses) for errand in errands), default=1)

    def one(step: int) -> float:
        jobs = sorted((errand.job(step, pace, link) for errand in errands), key=lambda job: job.ready)
        return step_seconds(pace.compute, jobs, link.share, pace.tail)

    return statistics.median(one(step) for step in range(steps))


def crossover(seconds: Callable[[float], float], plain: Callable[[float], float]) -> float:
    """The bandwidth above which `plain` is at least as fast, in bytes a second: 0 if it always is, inf if never.

    Both tell the seconds of a step at a bandwidth, and their difference changes its sign at most once.
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
    """Rank, and recommend: the fastest method that clears the margin, else dense."""
    ranked = tuple(sorted(methods, key=lambda method: method.seconds))
    plain = next(method for method in ranked if method.name == DENSE)
    best = ranked[0]
    return Verdict(ranked, best.name if best.seconds < MARGIN * plain.seconds else DENSE)


def weigh(pace: Pace, work: Mapping[str, Sequence[Errand] | str], link: Link) -> list[Method]:
    """Predict every method by its errands, or by the words that say why there are none; dense is one of them."""
    plain = work[DENSE]
    if isinstance(plain, str):
        raise ValueError(f"dense must be predicted first: {plain}")
    return [_weigh(name, errands, plain, pace, link) for name, errands in work.items()]


def predicted(name: str, errands: Sequence[Errand] | str, pace: Pace, link: Link) -> Method:
    """One method by its errands, or by the words that say why there are none; no crossover."""
    if isinstance(errands, str):
        return Method(name, math.inf, refusal=errands)
    return Method(name, predict(pace, errands, link), sum(errand.traffic for errand in errands))


def _weigh(name: str, errands: Sequence[Errand] | str, plain: Sequence[Errand], pace: Pace, link: Link) -> Method:
    method = predicted(name, errands, pace, link)
    if isinstance(errands, str) or name == DENSE:
        return method

    def at(beta: float, errands: Sequence[Errand] = errands) -> float:
        return predict(pace, errands, link.at(beta))

    return replace(method, crossover=crossover(at, lambda beta: at(beta, plain)))


def _ms(method: Method) -> str:
    return f"{1e3 * method.seconds:.4g} ms"
