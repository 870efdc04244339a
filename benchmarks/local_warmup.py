"""Do growing rounds help? The laboratory's small GPT, four workers, AdamW, 400 steps, three seeds.

    python benchmarks/local_warmup.py

Compares held-out loss and bytes a worker of rounds that have H local steps from the start, and of rounds that grow from 1 to H in the
first 100 steps. Writes results/local_warmup.json; two minutes on one core.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import torch
from rows import RESULTS, write

from gradwire.lab.studies.local.arms import SEEDS, default
from gradwire.lab.training import LocalSteps, train

GROW = 100


def main() -> None:
    torch.set_num_threads(1)
    found: list[dict[str, object]] = []
    for every in (10, 30):
        for grow in (0, GROW):
            training = default(every)
            local = LocalSteps(every, training.local.outer, grow=grow)
            runs = [train(replace(training, local=local, seed=seed)) for seed in range(SEEDS)]
            losses = [run.final["loss"] for run in runs]
            megabytes = mean(sum(step.bytes for step in run.steps) for run in runs) / 1e6
            found.append({"every": every, "grow": grow, "losses": losses, "megabytes": megabytes})
            print(f"H = {every}, growing for {grow} steps: {mean(losses):.4f} {losses}, {megabytes:.3f} MB", flush=True)
            write("local_warmup.json", found)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
