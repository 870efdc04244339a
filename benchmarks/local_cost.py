"""The cost of an exchange of local steps without communication, in time and memory: 100 million parameters, one thread.

    python benchmarks/local_cost.py [--quick]

Time: medians over rounds of the CPU seconds of the engine's thread and the caller, in units of a copy of the vector (copy_ into an
existing one, measured between the rounds). There is one process, whose gathers are answered at once with its own message twice, as if
there were two ranks. Bar: at most 12 copies. Memory: resident memory (VmRSS) after the rounds, minus that before `gradwire.local`, once
the C library has returned freed memory (malloc_trim); and the peak meanwhile; in bytes a parameter. Anchor and residual take 8. --quick
uses four million parameters and writes nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from rows import Row, row, show, write
from torch import nn

import gradwire

CASES: dict[str, dict[str, object]] = {
    "default": {},
    "default, keep='cpu'": {"keep": "cpu"},
    "delay=2, mix": {"delay": 2},
    "mean, nesterov": {"exchange": "mean", "outer": "nesterov"},
}

SMALL, LARGE = (4, 1000), (25, 2000)
"""Number of layers, and their width."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--case", choices=CASES, help="measure only this case, in this process, and print its rows as JSON"
    )
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(alone(chosen.case, quick=chosen.quick)))
        return
    rows: list[Row] = []
    for name in CASES:  # each in a process of its own, with fresh memory
        command = [sys.executable, __file__, "--case", name, *(["--quick"] if chosen.quick else [])]
        rows += json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    show(rows)
    if not chosen.quick:
        write("local_cost.json", {"d": LARGE[0] * LARGE[1] ** 2, "rows": rows})


def alone(name: str, *, quick: bool) -> list[Row]:
    """Measure one case in this process."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    judge(name, CASES[name], 2, 1000, 4)  # a warm-up: compiling and importing do not count
    rows = judge(name, CASES[name], *(SMALL if quick else LARGE), 4 if quick else 9)
    dist.destroy_process_group()
    return rows


def judge(name: str, options: dict[str, object], layers: int, side: int, rounds: int) -> list[Row]:
    """Measure one case: an exchange in copies, and bytes a parameter between rounds and at the peak."""
    d = layers * side * side
    model = nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(layers)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    source, target = torch.randn(d), torch.zeros(d)
    ctypes.CDLL(None).malloc_trim(0)
    before = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    local = gradwire.local(model, optimizer, every=3, **options)
    as_if_two(local)
    run, spent = local.engine.run, [0.0]

    def clocked(**how: bool) -> object:
        started = time.thread_time()
        outcome = run(**how)
        spent[-1] += time.thread_time() - started
        return outcome

    local.engine.run = clocked
    copies: list[float] = []
    for number in range(3 * rounds):
        with torch.no_grad():
            for param in model.parameters():
                param.add_(torch.randn(side, side), alpha=1e-3)
        started = time.thread_time()
        optimizer.step()  # without gradients, so only the post-hook takes time
        spent[-1] += time.thread_time() - started
        if number % 3 == 2:
            spent.append(0.0)
            started = time.thread_time()
            target.copy_(source)
            copies.append(time.thread_time() - started)
    copy, took = statistics.median(copies), sorted(spent[2:-1])
    peak = held("VmHWM") - before
    ctypes.CDLL(None).malloc_trim(0)
    now = held("VmRSS") - before
    local.close()
    most = 12 if name.startswith("default") else None
    return [
        row(f"{name}: an exchange without the wire, in copies", statistics.median(took) / copy, most=most),
        row(f"{name}: the slowest round, in copies", took[-1] / copy),
        row(
            f"{name}: held between rounds, bytes a parameter", now / d, most=8.8 if name.startswith("default") else None
        ),
        row(f"{name}: at its peak, bytes a parameter", peak / d),
    ]


def as_if_two(local: gradwire.Local) -> None:
    """Answer all asks at once, as if another worker sent the same."""
    local.process.size = 2
    local.process._answer = lambda ask: lambda: ask.alone(2)


def held(what: str) -> float:
    """Bytes of this process, as the kernel reports them under this name."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(what))


if __name__ == "__main__":
    main()
