"""Peak memory of a rank that trains a model of 100 million float32 parameters and saves its state.

    python benchmarks/memory.py [--only NAME ...] [--width 2048] [--depth 24]

Two ranks on loopback, fresh processes for every method, plain SGD, a batch of four. `step`: peak resident memory (VmHWM) in four
training steps. `saving`: the peak in the same process after `gradwire.save` between two steps, with gradients set to None. `copying`:
the peak after `torch.save(hook.state_dict())`, whose copies belong to the caller. Writes results/memory.json and the table of
docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from rows import RESULTS, Row, row, show, write

METHODS = {
    "dense": "",
    "EF(Top-k)": "ef(topk(density=0.01))",
    "EF(Top-k), error in bfloat16": "ef(topk(density=0.01), dtype='bfloat16')",
    "DIANA(Rand-K)": "diana(randk(density=0.01))",
    "EF21(Top-k)": "ef21(topk(density=0.01))",
    "local": "local",
}
BARS = {"DIANA(Rand-K)": 3.3, "EF21(Top-k)": 3.3}
SAVING = 0.4
PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
STEPS, BATCH = 4, 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", choices=list(METHODS))
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--rank", help="for internal use: run as a rank with this method")
    chosen = parser.parse_args()
    if chosen.rank:
        print(json.dumps(be_rank(METHODS[chosen.rank], chosen.width, chosen.depth)), flush=True)
        return
    whole = (chosen.width, chosen.depth) == (2048, 24)
    for name in chosen.only or METHODS:
        step, save, copy = run(name, chosen.width, chosen.depth)
        rows = [row(f"{name}, step, GB", step, most=BARS.get(name))]
        if METHODS[name]:
            rows.append(row(f"{name}, saving, GB more", save - step, most=SAVING))
            rows.append(row(f"{name}, copying, GB more", copy - step))
        show(rows)
        if whole:
            names = {line["name"] for line in rows}
            write("memory.json", [*(line for line in read() if line["name"] not in names), *rows])
    if whole:
        page = PAGE.read_text()
        PAGE.write_text(
            re.sub(r"(?s)(<!-- memory -->\n).*?(<!-- /memory -->)", lambda at: at[1] + table() + at[2], page)
        )


def read() -> list[Row]:
    file = RESULTS / "memory.json"
    return json.loads(file.read_text()) if file.exists() else []


def table() -> str:
    """A line for every method."""
    found, lines = {line["name"]: line["value"] for line in read()}, []
    for name, spec in METHODS.items():
        if f"{name}, step, GB" not in found:
            continue
        more = [found.get(f"{name}, {way}, GB more") for way in ("saving", "copying")]
        cells = [f"{found[f'{name}, step, GB']:.2f}", *("" if each is None else f"{each:.2f}" for each in more)]
        lines.append(f"| {name} | {f'`{spec}`' if '(' in spec else ''} | {' | '.join(cells)} |\n")
    ways = "GB more in `gradwire.save` | in `torch.save(hook.state_dict())`"
    return f"| | spec | GB a rank, training | {ways} |\n|---|---|---:|---:|---:|\n" + "".join(lines)


def run(name: str, width: int, depth: int) -> list[float]:
    """Start two ranks; return the larger of their figures, in GB."""
    from gradwire import net

    command = [sys.executable, __file__, "--rank", name, "--width", str(width), "--depth", str(depth)]
    with net.launch([command] * 2, env={"OMP_NUM_THREADS": "1"}) as cluster:
        codes = cluster.wait(timeout=900)
        lines = [json.loads(line) for line in cluster.lines() if line.startswith("[")]
    if any(codes) or len(lines) != 2:
        raise SystemExit(f"{name} ended with {codes}")
    return [max(figures) for figures in zip(*lines, strict=True)]


def be_rank(spec: str, width: int, depth: int) -> list[float]:
    """Train, save, and save copies, as one rank; return the peak resident memory after each, in GB."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    import gradwire

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
    if spec != "local":
        net = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    hook = gradwire.local(net, optimizer, every=2) if spec == "local" else gradwire.attach(net, spec) if spec else None
    for _ in range(STEPS):
        net(torch.randn(BATCH, width)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    step = save = peak()
    if hook is not None:
        folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(folder)
        gradwire.save(hook, folder[0])
        save = peak()
        dist.barrier()
        shutil.rmtree(folder[0], ignore_errors=True)
        with tempfile.TemporaryFile() as file:
            torch.save(hook.state_dict(), file)
        hook.close()
    copy = peak()
    dist.destroy_process_group()
    return [step, save, copy]


def peak() -> float:
    """Peak resident memory of this process so far, in GB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e9


if __name__ == "__main__":
    main()
