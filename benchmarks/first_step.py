"""Time to the first result: from `pip install` in a fresh environment to the first training step with a compressed exchange.

    python benchmarks/first_step.py

Times are wall-clock seconds. The installation depends on the package index and pip's cache; the step, on two ranks over loopback,
includes starting Python, importing torch, and compiling or loading the loops over gradients.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from rows import row, show, write

ROOT = Path(__file__).parents[1]
STEP = """
import os, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import gradwire
torch.set_num_threads(1)
dist.init_process_group("gloo")
model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
optimizer = torch.optim.AdamW(model.parameters())
ddp = DistributedDataParallel(model)
hook = gradwire.attach(ddp, "ef(topk(density=0.1, values='bits4'))")
torch.nn.functional.cross_entropy(ddp(torch.randn(32, 256)), torch.randint(10, (32,))).backward()
optimizer.step()
assert 0 < hook.ledger.bytes < 4 * sum(p.numel() for p in model.parameters()) / 10
hook.close()
dist.destroy_process_group()
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        venv.create(Path(folder) / "fresh", with_pip=True)
        python = Path(folder) / "fresh" / "bin" / "python"
        quiet = ("--quiet", "--disable-pip-version-check", "--constraint", str(ROOT / "constraints.txt"))
        subprocess.run([python, "-m", "pip", "install", *quiet, f"{ROOT}[cpu]"], check=True, stderr=subprocess.DEVNULL)
        installed = time.perf_counter()
        step = Path(folder) / "step.py"
        step.write_text(STEP)
        launch = [python, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(step)]
        times = [time.perf_counter()]
        for _ in range(2):
            subprocess.run(launch, check=True, cwd=folder, stderr=subprocess.DEVNULL)
            times.append(time.perf_counter())
    rows = [
        row("environment and pip install '.[cpu]', seconds", installed - began),
        row("then to the end of the first compressed step, two ranks, seconds", times[1] - times[0]),
        row("the same the second time, seconds", times[2] - times[1]),
    ]
    show(rows)
    write("first_step.json", rows)


if __name__ == "__main__":
    sys.exit(main())
