"""The short set of benchmarks: `make bench` runs it, prints a table and writes results/latest.json. A quarter of an hour on two cores.

    python benchmarks/latest.py

It measures kernels, the hook without communication, index bits and the import; then steps at 100 Mbit/s and 1 Gbit/s on three models,
and "auto" on loopback, each in real processes. Longer benchmarks are separate: steps.py --torch, race.py, equal_loss.py, map.py, gpu.py.
"""

from __future__ import annotations

import logging
import math

import hook
import imports
import kernels
import loopback
import steps
import torch
import torch.distributed as dist
from rows import Row, row, show, write

from gradwire import net
from gradwire.kernels import warm_up
from gradwire.wire import index


def main() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    warm_up()
    rows = [*imports.judge(), *bits(), *kernels.judge(kernels.measure(10_000_000, 9)), *hooks()]
    show(rows)
    for rate in ("100mbit", "1gbit"):
        for model in ("mlp", "gpt", "resnet18"):
            rows += timed(model, rate)
            write("latest.json", rows)
    for model in ("mlp", "gpt", "resnet18"):
        rows += loopback.judge(model)
    print()
    show(rows)
    write("latest.json", rows)


def bits() -> list[Row]:
    """Bits of an index divided by log2(e / p), the entropy of a random support's index."""
    d = 10_000_000
    ratios = [(p, 8 * index.nbytes(d, int(p * d)) / int(p * d) / math.log2(math.e / p)) for p in (0.01, 0.001)]
    return [row(f"index bits at a density of {p:.1%}, times log2(e/p)", ratio, most=1.08) for p, ratio in ratios]


def hooks() -> list[Row]:
    """Measure the hook on ten million gradients."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    rows = hook.judge(1000, 9)
    dist.destroy_process_group()
    return rows


def timed(model: str, rate: str) -> list[Row]:
    """Measure steps on a link; no rows if the kernel refuses links."""
    if (reason := net.refusal()) is not None:
        print(f"no steps of {model} at {rate}: {reason}")
        return []
    rows, _ = steps.measure(model, rate, seconds=15)
    show(rows)
    return rows


if __name__ == "__main__":
    main()
