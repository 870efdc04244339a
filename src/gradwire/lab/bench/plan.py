"""What to measure: a plan of methods, links and numbers of ranks, and its cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradwire import net
from gradwire.lab.bench.workloads import check_model
from gradwire.lab.checks import check_bucket_mb, check_once
from gradwire.lab.ways import NONE, check_way

METHODS = (
    NONE,
    "dense",
    "fp16",
    "powersgd1",
    "powersgd2",
    "powersgd4",
    "ef(topk(density=0.01, values='natural'))",
    "ef(deft(density=0.01))",
    "local(every=10)",
)
"""The default methods: one of each kind."""


@dataclass(frozen=True)
class Cell:
    """One model, link and number of ranks: what one group of processes measures."""

    model: str
    methods: tuple[str, ...]
    ranks: int
    rate: str | None
    link: str  # its name in the tables
    steps: int
    seconds: float
    bucket_mb: float


@dataclass(frozen=True)
class BenchPlan:
    """Measure all methods on a model, for every link and number of ranks.

    model: a built-in name, or a factory `module:name`. methods: names of `lab.ways`; "none" is always measured first,
    because the others are compared with it. With local steps, whole rounds are timed and divided by their steps. rates:
    such as "100mbit"; None is loopback. steps: timed steps of each method, at least five rounds with local steps; fewer
    if they would take longer than `seconds` in a cell, but at least two. bucket_mb: MiB that gradwire's methods
    exchange together.
    """

    model: str = "mlp"
    methods: tuple[str, ...] = METHODS
    rates: tuple[str | None, ...] = (None,)
    ranks: tuple[int, ...] = (2,)
    steps: int = 20
    seconds: float = 60.0
    bucket_mb: float = 25.0

    def __post_init__(self) -> None:
        check_model(self.model)
        object.__setattr__(self, "methods", (NONE, *(name for name in self.methods if name != NONE)))
        for method in self.methods:
            check_way(method)
        for rate in self.rates:
            if rate is not None:
                net.parse_rate(rate)
        for kind, every in (("method", self.methods), ("rate", self.rates), ("number of ranks", self.ranks)):
            check_once(kind, every)
        if min(self.ranks) < 1 or self.steps < 2 or not self.seconds > 0:
            got = f"{min(self.ranks)} ranks, {self.steps} steps and {self.seconds:g} seconds"
            raise ValueError(f"a plan needs a rank, two steps and some seconds at least, got {got}")
        check_bucket_mb(self.bucket_mb)

    def cells(self) -> Iterator[Cell]:
        """All combinations of links and numbers of ranks."""
        for ranks in self.ranks:
            for rate in self.rates:
                yield self.cell(ranks, rate, rate or "loopback")

    def cell(self, ranks: int, rate: str | None, link: str) -> Cell:
        """The cell of one link and number of ranks."""
        return Cell(self.model, self.methods, ranks, rate, link, self.steps, self.seconds, self.bucket_mb)
