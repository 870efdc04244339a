"""Rehearse a plan on this machine, in this process."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from gradwire.advice.crowd import clock
from gradwire.lab.bench.workloads import Workload, make
from gradwire.lab.scale.plan import ScalePlan
from gradwire.lab.scale.predict import Forecast
from gradwire.lab.scale.work import Work, work_of

Listener = Callable[[str, int], None]
"""Called with a method and a number of workers when their rehearsal begins."""

RANKS = 8
"""Number of ranks whose gradients are measured, each on its own batch."""

TIMED = 3
"""Number of timed steps after a warm-up step; their median is used."""


def ignore(method: str, size: int) -> None:
    """Ignore an event."""


def run(plan: ScalePlan, listen: Listener = ignore) -> Forecast:
    """Rehearse every method with every number of workers, on one thread.

    Raises:
        ValueError: an invalid factory or loss, in one sentence.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(plan, listen)
    finally:
        torch.set_num_threads(threads)


def _run(plan: ScalePlan, listen: Listener) -> Forecast:
    workload = make(plan.model, 0)
    workload.check()
    compute = _compute(workload)
    named: list[tuple[str, Tensor]] = [
        (name, param) for name, param in workload.model.named_parameters() if param.requires_grad
    ]
    others = (make(plan.model, rank) for rank in range(1, min(RANKS, max(plan.sizes))))
    measured = [gradients(workload), *map(gradients, others)]
    works: list[Work] = []
    for method in plan.methods:
        for size in plan.sizes:
            listen(method, size)
            works.append(_work(plan, method, named, measured, size))
    parameters = sum(param.numel() for _, param in named)
    return Forecast(plan, compute if plan.compute is None else plan.compute, parameters, tuple(works))


def _work(
    plan: ScalePlan, method: str, named: list[tuple[str, Tensor]], measured: list[list[Tensor]], size: int
) -> Work:
    if refusal := plan.fits(method, size):
        return Work(method, size, 1, (), 0.0, refusal)
    return work_of(method, named, measured, size, plan.bucket_mb * 2**20)


def _compute(workload: Workload) -> float:
    """Measure the seconds of a forward and a backward pass."""
    seconds: list[float] = []
    now = clock(torch.device("cpu"))
    for _ in range(1 + TIMED):
        workload.model.zero_grad(set_to_none=True)
        started = now()
        workload.loss(workload.model).backward()
        seconds.append(now() - started)
    return statistics.median(seconds[1:])


def gradients(workload: Workload) -> list[Tensor]:
    """Compute a batch's gradient for every trainable parameter; zeros if a parameter gets none."""
    workload.model.zero_grad(set_to_none=True)
    workload.loss(workload.model).backward()
    params = (param for param in workload.model.parameters() if param.requires_grad)
    return [torch.zeros_like(param) if param.grad is None else param.grad.clone() for param in params]
