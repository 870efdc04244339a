"""Do exchanges between islands overlap with FSDP2's backward? A step without exchanges, with them, and with one at its end.

    python benchmarks/overlap.py [--quick]

Two islands of two ranks: two network namespaces with a 100 Mbit/s link between them, and loopback inside each. A layer computes by
sleeping, 40 ms forward and 120 ms backward (activations are recomputed), so a busy machine disturbs little; its gradients need about
115 ms on the link. Three equal models take turns: one without an exchange, one with a unit for each layer (`overlapped`), and one with a
single unit, which is complete when backward ends (`blocking`, as at the optimizer's step). A ratio is the median over the turns. Bars:
overlapped at most 1.15 of the step without, and blocking at least 1.6, as otherwise there is little to hide. Writes results/overlap.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

from rows import Row, row, show, write

RATE, EXCHANGE, LAYERS, WIDTH = "100mbit", "mean", 16, 580
FORWARD, BACKWARD = 0.04, 0.12  # seconds a layer, activations recomputed
UNITS = {"overlapped": WIDTH * WIDTH * 4 / 2 / 2**20, "blocking": float("inf")}  # MB: a layer's shard, or all
PORT = 29617


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rank", action="store_true", help="for internal use: run as a rank")
    options = parser.parse_args()
    turns, steps = (3, 1) if options.quick else (9, 1)
    if options.rank:
        race(turns, steps)
        return
    rows = judge(options.quick)
    show(rows)
    if not options.quick:
        write("overlap.json", settings() | {"turns": turns, "steps": steps, "rows": rows})


def settings() -> dict[str, Any]:
    return {
        "rate": RATE,
        "exchange": EXCHANGE,
        "layers": LAYERS,
        "parameters a layer": WIDTH * WIDTH,
        "seconds a layer computes, by sleeping": {"forward": FORWARD, "backward": BACKWARD},
    }


def judge(quick: bool) -> list[Row]:
    """Measure two islands on a link."""
    from gradwire import net

    meet = ["--nnodes", "2", "--nproc-per-node", "2", "--master-addr", "10.77.0.1", "--master-port", str(PORT)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *meet]
    script = [__file__, "--rank", *(["--quick"] if quick else [])]
    islands = [[*torchrun, "--node-rank", str(island), *script] for island in range(2)]
    with net.launch(islands, rate=RATE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as cluster:
        codes = cluster.wait(timeout=400)
        lines = [json.loads(line) for line in cluster.lines() if line.startswith("{")]
    if codes != [0, 0] or not lines:
        raise SystemExit(f"the islands ended with {codes}")
    seconds = lines[0]
    rows = [row("a step without an exchange, ms", 1e3 * statistics.median(seconds["none"]))]
    for kind, bar in (("overlapped", {"most": 1.15}), ("blocking", {"least": 1.6})):
        ratios = [with_it / without for with_it, without in zip(seconds[kind], seconds["none"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rows.append(row(f"a step, {kind} / without", middle, **bar))
        rows.append(row(f"a step, {kind} / without, lower quartile", low))
        rows.append(row(f"a step, {kind} / without, upper quartile", high))
    return rows


def race(turns: int, steps: int) -> None:
    """Measure the three models in turn, as one rank."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    import gradwire

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    models = {kind: slow_model(mesh["shard"]) for kind in ("none", *UNITS)}
    hooks = [
        gradwire.attach(models[kind], EXCHANGE, bucket_mb=unit, group=mesh["replicate"]) for kind, unit in UNITS.items()
    ]
    seconds: dict[str, list[float]] = {kind: [] for kind in models}
    x = torch.randn(2, WIDTH)
    for turn in range(turns + 1):
        for kind, model in models.items():
            dist.barrier()
            started = time.perf_counter()
            for _ in range(steps):
                model(x).square().mean().backward()
                model.zero_grad()
            if turn:  # the first turn opens connections and is not counted
                seconds[kind].append((time.perf_counter() - started) / steps)
    assert [hook.step for hook in hooks] == [(turns + 1) * steps] * 2
    if dist.get_rank() == 0:
        print(json.dumps(seconds), flush=True)
    for hook in hooks:
        hook.close()
    dist.destroy_process_group()


def slow_model(mesh: Any) -> Any:
    """A model of layers that sleep, each its own FSDP2 group."""
    import torch
    from torch import Tensor, nn
    from torch.distributed.fsdp import fully_shard

    class Sleep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            time.sleep(FORWARD)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            time.sleep(BACKWARD)
            return grads

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return Sleep.apply(x @ self.weight)

    model = nn.Sequential(*(Layer() for _ in range(LAYERS)))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


if __name__ == "__main__":
    main()
