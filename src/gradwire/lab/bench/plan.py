"""What is to be measured: a plan of links and numbers of ranks, and each of its cells."""

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
"""The default: one of each kind."""


@dataclass(frozen=True)
class Cell:
    """One model, one link, one number of ranks: what one start of processes measures."""

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
    """All methods on a model, for every link and number of ranks.

    model: built in, or a factory `module:name`. methods: names of `lab.ways`; "none" is always measured, and first,
    because the others are compared with it. Of local steps whole rounds are timed, and divided by their steps. rates:
    such as "100mbit"; None is loopback. steps: timed steps of every method, as many as fit into its `seconds` in a
    cell, two at least, and five rounds of local steps. bucket_mb: of gradwire's ways.
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
        """Every link with every number of ranks."""
        for ranks in self.ranks:
            for rate in self.rates:
                yield self.cell(ranks, rate, rate or "loopback")

    def cell(self, ranks: int, rate: str | None, link: str) -> Cell:
        """One of them."""
        return Cell(self.model, self.methods, ranks, rate, link, self.steps, self.seconds, self.bucket_mb)
