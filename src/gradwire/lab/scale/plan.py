"""What to predict: methods, numbers of workers, links."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradwire import net
from gradwire.advice.network import Network, Wire
from gradwire.checks import is_whole
from gradwire.exchange.parts import check_workers
from gradwire.lab.bench.workloads import check_model
from gradwire.lab.checks import check_bucket_mb, check_once
from gradwire.lab.ways import DENSE, NONE, check_way, is_torch, local_steps
from gradwire.spec import parse

METHODS = (
    DENSE,
    "ef(topk(density=0.01, values='natural'))",
    "ef(deft(density=0.01))",
    "ef(oktopk(density=0.01))",
    "powersgd(rank=4)",
    "islands(mean, ef(deft(density=0.01)), size=8)",
    "local(every=30)",
)
"""The default methods: one of each kind."""

MOST = 4096
"""The largest number of workers, because every one is rehearsed if a method's work depends on the rank."""


@dataclass(frozen=True)
class ScalePlan:
    """Predict methods on a model, for every number of workers and link.

    model: a built-in name, or a factory `module:name`. methods: dense, local steps, or specs. sizes: numbers of
    workers. rates: of the slow links, such as "100mbit". latency: seconds a message on them. island: workers of an
    island, 1 for a flat network; inside, near: rate and latency of the links inside. compute: seconds of a step without
    a network; None to measure them here. bucket_mb: MiB that are exchanged together.
    """

    model: str = "mlp"
    methods: tuple[str, ...] = METHODS
    sizes: tuple[int, ...] = (2, 8, 64)
    rates: tuple[str, ...] = ("100mbit", "1gbit", "10gbit")
    latency: float = 50e-6
    island: int = 1
    inside: str = "100gbit"
    near: float = 5e-6
    compute: float | None = None
    bucket_mb: float = 25.0

    def __post_init__(self) -> None:
        check_model(self.model)
        for kind, every in (("method", self.methods), ("number of workers", self.sizes), ("rate", self.rates)):
            check_once(kind, every)
        for method in self.methods:
            check_way(method)
            if method == NONE or method == "auto" or (is_torch(method) and method != DENSE):
                raise ValueError(f"{method} cannot be rehearsed: name dense, local steps, or a spec")
        for size in self.sizes:
            if not is_whole(size) or not 2 <= size <= MOST:
                raise ValueError(f"a number of workers lies between 2 and {MOST}, got {size}")
        for rate in (*self.rates, self.inside):
            net.parse_rate(rate)
        if not is_whole(self.island) or self.island < 1:
            raise ValueError(f"an island has a whole number of workers, at least 1, got {self.island!r}")
        if wrong := [size for size in self.sizes if self.island > 1 and size > self.island and size % self.island]:
            raise ValueError(f"islands of {self.island} are not filled by {wrong[0]} workers")
        for name, value in (("latency", self.latency), ("near", self.near), ("compute", self.compute or 0.0)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of seconds, at least 0, got {value}")
        check_bucket_mb(self.bucket_mb)

    def network(self, rate: str) -> Network:
        """The network whose slow links have this rate."""
        wire = Wire(self.latency, net.parse_rate(rate) / 8)
        if self.island == 1:
            return Network(wire)
        return Network(wire, Wire(self.near, net.parse_rate(self.inside) / 8), self.island)

    def fits(self, method: str, size: int) -> str:
        """The reason why a method does not run with `size` workers; "" if it does."""
        if method == DENSE or local_steps(method) is not None:
            return ""
        try:
            check_workers(parse(method), size)
        except ValueError as refusal:
            return str(refusal)
        return ""
