"""The time of a step without a wrapper divided by that through DDP: the same model, exchange and link, both in one run.

    python benchmarks/doors.py [--quick]

Two ranks, one thread each, with a 100 Mbit/s link between network namespaces. The two doors run blocks of steps in turn; a row is the
median of their ratio over the blocks, with its quartiles. Bar: at most 1.05. Writes results/doors.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

from rows import Row, row, show, write

RATE, EXCHANGE = "100mbit", "ef(topk(density=0.01))"
MODELS = ("mlp", "gpt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rank", help="for internal use: run as a rank that trains this model")
    options = parser.parse_args()
    blocks, steps = (4, 4) if options.quick else (10, 8)
    if options.rank:
        race(options.rank, blocks, steps)
        return
    rows = [each for model in MODELS for each in judge(model, options.quick)]
    show(rows)
    if not options.quick:
        write("doors.json", {"rate": RATE, "exchange": EXCHANGE, "blocks": blocks, "steps": steps, "rows": rows})


def judge(model: str, quick: bool) -> list[Row]:
    """Measure both doors of a model on a link."""
    from gradwire import net

    command = [sys.executable, __file__, "--rank", model, *(["--quick"] if quick else [])]
    with net.launch([command] * 2, rate=RATE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as cluster:
        codes = cluster.wait(timeout=400)
        lines = [json.loads(line) for line in cluster.lines() if line.startswith("{")]
    if codes != [0, 0] or not lines:
        raise SystemExit(f"the ranks ended with {codes}")
    ratios = sorted(bare / ddp for bare, ddp in zip(lines[0]["bare"], lines[0]["ddp"], strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4)
    milliseconds = 1e3 * statistics.median(lines[0]["ddp"])
    return [
        row(f"{model}, {RATE}: a step through DDP's door, ms", milliseconds),
        row(f"{model}, {RATE}: bare door / DDP's", middle, most=1.05),
        row(f"{model}, {RATE}: bare door / DDP's, lower quartile", low),
        row(f"{model}, {RATE}: bare door / DDP's, upper quartile", high),
    ]


def race(name: str, blocks: int, steps: int) -> None:
    """Measure both doors in turn, as one rank."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    import gradwire
    from gradwire.lab.bench import workloads

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    made = {door: workloads.BUILT_IN[name](dist.get_rank()) for door in ("ddp", "bare")}
    models = {"ddp": DistributedDataParallel(made["ddp"].model), "bare": made["bare"].model}
    hooks = [gradwire.attach(model, EXCHANGE) for model in models.values()]
    optimizers = {door: torch.optim.SGD(each.model.parameters(), lr=0.01) for door, each in made.items()}
    seconds: dict[str, list[float]] = {door: [] for door in made}
    for block in range(blocks + 1):
        for door in sorted(made, reverse=block % 2 == 0):
            dist.barrier()
            started = time.perf_counter()
            for _ in range(steps):
                made[door].loss(models[door]).backward()
                optimizers[door].step()
                optimizers[door].zero_grad()
            if block:  # the first block opens connections and is not counted
                seconds[door].append((time.perf_counter() - started) / steps)
    if dist.get_rank() == 0:
        print(json.dumps(seconds), flush=True)
    for hook in hooks:
        hook.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
