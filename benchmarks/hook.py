"""The whole hook without communication: the computing of EF(Top-k) on 10 million gradients, with one thread.

    python benchmarks/hook.py [--quick]

Rows are median CPU seconds of the hook's thread in a step, in units of a copy of the vector (copy_ into an existing one). There is one
process, whose asks are answered at once as if another rank sent the same message, so everything is encoded, decoded and summed. Bar: at
most 8 copies. --quick uses a million gradients and writes nothing.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time

import torch
import torch.distributed as dist
from rows import Row, row, show, write
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire

SPECS = {
    "ef(topk(density=0.01))": (4.0, 25.0, float("inf")),
    "ef(topk(density=0.01, values='natural'))": (25.0,),
    "ef(topk(density=0.001))": (25.0,),
    "ef(sharedrandk(density=0.01, unbiased=false))": (25.0,),
}
"""Specs, with the MiB that are exchanged together."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    side, steps = (316, 5) if quick else (1000, 15)
    rows = judge(side, steps)
    show(rows)
    if not quick:
        write("hook.json", {"d": 10 * side * side, "rows": rows})
    dist.destroy_process_group()


def judge(side: int, steps: int) -> list[Row]:
    """Measure every spec, in copies of all gradients."""
    rows: list[Row] = []
    for spec, sizes in SPECS.items():
        for size in sizes:
            seconds, copy = measure(spec, size, side, steps)
            together = "the whole model at once" if size == float("inf") else f"units of {size:g} MB"
            rows.append(row(f"hook without the wire, {spec}, {together}, in copies", seconds / copy, most=8))
    return rows


def measure(spec: str, size: float, side: int, steps: int) -> tuple[float, float]:
    """Median seconds of a step in the hook and of a copy of all gradients, in the same run."""
    model = nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(10)))
    ddp = DistributedDataParallel(
        model, bucket_cap_mb=size if size < float("inf") else 1000, gradient_as_bucket_view=True
    )
    hook = gradwire.attach(ddp, spec, bucket_mb=size)
    hook.process.size = 2
    hook.process._answer = lambda ask: lambda: ask.alone(2)  # as if another worker sent the same
    source, target = torch.randn(10 * side * side), torch.empty(10 * side * side)
    x = torch.randn(8, side)
    advance, spent = hook.engine._advance, [0.0]

    def clocked(*arrival: object, **place: bool) -> None:
        started = time.thread_time()
        advance(*arrival, **place)
        spent[-1] += time.thread_time() - started

    hook.engine._advance = clocked
    copies: list[float] = []
    for _ in range(steps + 3):
        ddp(x).square().sum().backward()
        started = time.thread_time()
        target.copy_(source)
        copies.append(time.thread_time() - started)
        ddp.zero_grad(set_to_none=False)
        spent.append(0.0)
    hook.close()
    return statistics.median(spent[3:-1]), statistics.median(copies[3:])


if __name__ == "__main__":
    main()
