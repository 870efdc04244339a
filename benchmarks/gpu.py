"""The GPU's loops compared with torch and with a copy, on 100 million float32; without a GPU it says so and writes nothing.

    python benchmarks/gpu.py [--quick]

Times are medians of 20 runs by the device's clock, after three warm-up runs and a check against torch.topk's selection. A copy is copy_
of the vector into an existing one. Bars: Top-k at least 4 times as fast as torch.topk of precomputed magnitudes, and at least 35 % of a
copy's bandwidth, that is, a copy's time divided by its own; a step of EF(Top-k 1 %) with a packed message takes at most 6 copies.
--quick uses ten million elements and writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from rows import Row, row, show, write
from torch import Tensor

from gradwire import kernels
from gradwire.kernels import gpu
from gradwire.wire import index, values

REPEATS, WARM = 20, 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        print("This machine has no GPU that torch can use: nothing was measured and nothing written.")
        return
    if not gpu.ready(torch.device("cuda", torch.cuda.current_device())):
        print("Triton does not work on this GPU (the warning says why): nothing was measured and nothing written.")
        return
    d = 10_000_000 if quick else 100_000_000
    seconds = measure(d)
    rows, device = judge(seconds), torch.cuda.get_device_name()
    print(f"d = {d:,} on {device}; a copy moves {8 * d / seconds['copy'] / 1e12:.2f} TB/s")
    for name, value in seconds.items():
        print(f"{name:<36}{value * 1e3:>10.3f} ms {value / seconds['copy']:>8.2f} copies")
    show(rows)
    if not quick:
        write("gpu.json", {"d": d, "device": device, "torch": torch.__version__, "seconds": seconds, "rows": rows})


def measure(d: int) -> dict[str, float]:
    """Measure everything; return median seconds by name."""
    x = torch.randn(d, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    target, sizes, error = torch.empty_like(x), x.abs(), torch.zeros_like(x)
    layers = [(d * i // 300, d * (i + 1) // 300) for i in range(300)]
    ks = [(end - start) // 100 for start, end in layers]
    for k in (d // 100, d // 1000):
        check(x, sizes, k)
    works: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(x),
        "top 1 %": lambda: kernels.topk(x, d // 100),
        "top 0.1 %": lambda: kernels.topk(x, d // 1000),
        "tops 1 %, 300 layers": lambda: kernels.segmented_topk(x, layers, ks),
        "passing 2.6 deviations": lambda: kernels.indices_above(x, 2.6),
        "norms, 300 layers": lambda: kernels.norms(x, layers),
        "EF(top 1 %) + pack": lambda: step(x, error, d // 100),
        "torch.topk 1 %": lambda: sizes.topk(d // 100, sorted=False),
        "torch.topk 0.1 %": lambda: sizes.topk(d // 1000, sorted=False),
    }
    return {name: clock(work) for name, work in works.items()}


def check(x: Tensor, sizes: Tensor, k: int) -> None:
    """Raise RuntimeError unless the kernel selects what torch.topk selects."""
    found = kernels.topk(x, k)
    if not bool((found[1:] > found[:-1]).all()) or float(sizes[found].amin()) != float(sizes.topk(k).values.amin()):
        raise RuntimeError(f"the {k} places found are not those of the {k} largest magnitudes")


def step(g: Tensor, error: Tensor, k: int) -> Tensor:
    """One worker's step of error feedback: add the residual, select, pack, and subtract the message from the residual."""
    error.add_(g)
    indices = kernels.topk(error, k)
    message = values.encode(error[indices], "natural", key=1)
    gpu.add_(error, [(indices, values.decode(message, "natural", k))], alpha=-1.0)
    return torch.cat([index.encode(indices, len(g)), message])


def clock(work: Callable[[], object]) -> float:
    """Median seconds from before the first launch to the end of the last one, including waits for the host."""
    found = list[float]()
    for _ in range(WARM + REPEATS):
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begun.record()
        work()
        ended.record()
        ended.synchronize()
        found.append(begun.elapsed_time(ended) / 1e3)
    return statistics.median(found[WARM:])


def judge(seconds: dict[str, float]) -> list[Row]:
    """Make the rows: ratios with their bars."""
    copy = seconds["copy"]
    return [
        row("top 1 %, times as fast as torch.topk", seconds["torch.topk 1 %"] / seconds["top 1 %"], least=4),
        row("top 0.1 %, times as fast as torch.topk", seconds["torch.topk 0.1 %"] / seconds["top 0.1 %"], least=4),
        row("top 1 %, share of a copy's bandwidth", copy / seconds["top 1 %"], least=0.35),
        row("top 0.1 %, share of a copy's bandwidth", copy / seconds["top 0.1 %"], least=0.35),
        row("EF(top 1 %) + pack, in copies", seconds["EF(top 1 %) + pack"] / copy, most=6),
        row("tops 1 % of 300 layers, in copies", seconds["tops 1 %, 300 layers"] / copy),
        row("passing, in copies", seconds["passing 2.6 deviations"] / copy),
        row("norms, in copies", seconds["norms, 300 layers"] / copy),
    ]


if __name__ == "__main__":
    main()
