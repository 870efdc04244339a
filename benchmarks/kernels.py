"""The loops over every element compared with torch's, on 10 million float32 with one thread, both sides in turn.

    python benchmarks/kernels.py [--quick]

Rows of a matrix are those of blockwise(topk(density=0.0156), size=4096) on 4 million elements, and of blockwise(ternary, size=256). Times
are medians of the thread's CPU seconds. A copy is copy_ of the vector into an existing one. Bars: Top-k at least 12 times as fast as
torch.topk of precomputed magnitudes, and at most 4 copies; support at least 50 times as fast as randperm(d)[:k]. --quick uses a million
elements and few repeats, and writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rows import Row, row, show, write

from gradwire import kernels
from gradwire.layout import Layout, Turn
from gradwire.spec import build

ROWS, ROW = 1024, 4096
"""Number and length of blocks: 4 million elements in total."""

SMALL = 10_000
"""Number of layers with 64 elements; spans and budgets are lists, as in DEFT."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    compiled, d = kernels.warm_up(), 1_000_000 if quick else 10_000_000
    seconds = measure(d, 5 if quick else 15)
    rows = judge(seconds)
    print(f"d = {d:,}, with{'' if compiled else 'out'} Numba")
    for name, value in seconds.items():
        print(f"{name:<28}{value * 1e3:>10.3f} ms")
    show(rows)
    if not quick:
        write("kernels.json", {"d": d, "numba": compiled, "seconds": seconds, "rows": rows})


def measure(d: int, repeats: int) -> dict[str, float]:
    """Measure everything; return median seconds by name, after one warm-up round."""
    x = torch.randn(d, generator=torch.Generator().manual_seed(0))
    target, sizes, key = torch.empty_like(x), x.abs(), torch.tensor(1)
    layers = [(at, min(at + 100_000, d)) for at in range(0, d, 100_000)]
    small = [(at, at + 64) for at in range(0, 64 * SMALL, 64)]
    rows, k = x[: min(ROWS, d // ROW) * ROW].view(-1, ROW), ROW // 64
    flat, other, row_sizes = rows.flatten(), torch.empty(rows.numel()), rows.abs()
    where = Turn(0, 1, 0, Layout(["x"], [(len(flat),)]))
    largest, ternary = build(f"blockwise(topk(density=0.0156), size={ROW})"), build("blockwise(ternary, size=256)")
    works: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(x),
        "top 1 %": lambda: kernels.topk(x, d // 100),
        "top 0.1 %": lambda: kernels.topk(x, d // 1000),
        "tops 1 %, 100 layers": lambda: kernels.segmented_topk(x, layers, [1000] * len(layers)),
        "tops, 10,000 layers of 64": lambda: kernels.segmented_topk(x, small, [1] * len(small)),
        "norms": lambda: kernels.norms(x, layers),
        "support 1 %": lambda: kernels.support(key, d, d // 100),
        "copy of the rows": lambda: other.copy_(flat),
        "top 1.6 % of rows": lambda: kernels.topk(rows, k),
        "blockwise(topk)": lambda: largest.encode(flat, where),
        "blockwise(ternary)": lambda: ternary.encode(flat, where),
        "torch.topk of rows": lambda: row_sizes.topk(k, sorted=False),
        "torch.topk 1 %": lambda: sizes.topk(d // 100, sorted=False),
        "torch.topk 0.1 %": lambda: sizes.topk(d // 1000, sorted=False),
        "torch.randperm": lambda: torch.randperm(d)[: d // 100],
    }
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            if turn <= 5 or not name.startswith("torch"):
                found[name].append(clock(work))
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}


def clock(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def judge(seconds: dict[str, float]) -> list[Row]:
    """Make the rows: ratios with their bars."""
    return [
        row("top 1 %, times as fast as torch.topk", seconds["torch.topk 1 %"] / seconds["top 1 %"], least=12),
        row("top 0.1 %, times as fast as torch.topk", seconds["torch.topk 0.1 %"] / seconds["top 0.1 %"], least=12),
        row("top 1 %, in copies", seconds["top 1 %"] / seconds["copy"], most=4),
        row("top 0.1 %, in copies", seconds["top 0.1 %"] / seconds["copy"], most=4),
        row("tops 1 % of 100 layers, in copies", seconds["tops 1 %, 100 layers"] / seconds["copy"]),
        row("tops, microseconds a layer of 64", seconds["tops, 10,000 layers of 64"] * 1e6 / SMALL, most=1),
        row("norms, in copies", seconds["norms"] / seconds["copy"]),
        row(
            "top 1.6 % of rows, times as fast as torch.topk",
            seconds["torch.topk of rows"] / seconds["top 1.6 % of rows"],
            least=3,
        ),
        row("top 1.6 % of rows, in copies", seconds["top 1.6 % of rows"] / seconds["copy of the rows"]),
        row("blockwise(topk) encodes, in copies", seconds["blockwise(topk)"] / seconds["copy of the rows"]),
        row("blockwise(ternary) encodes, in copies", seconds["blockwise(ternary)"] / seconds["copy of the rows"]),
        row("support 1 %, times as fast as randperm", seconds["torch.randperm"] / seconds["support 1 %"], least=50),
    ]


if __name__ == "__main__":
    main()
