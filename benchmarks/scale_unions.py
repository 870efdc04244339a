"""Do rehearsed workers select as differently as real ranks? The union of n ranks' Top-k 1 %, in multiples of k.

    python benchmarks/scale_unions.py

Real: every rank's gradient is measured on its own batch. Rehearsed: the first eight are measured, the others drawn
(advice/gradients.py). Nothing is timed, so the machine may be busy; a minute. Writes results/scale_unions.json.
"""

from __future__ import annotations

import torch
from rows import write
from torch import Tensor

from gradwire.advice.gradients import Gradients, of_ranks
from gradwire.lab.bench.workloads import make
from gradwire.lab.scale.run import RANKS, gradients

CELLS = (("mlp", 32), ("gpt", 16))
DENSITY = 0.01


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name, ranks in CELLS:
        real = [gradients(make(name, rank)) for rank in range(ranks)]
        params = real[0]
        drawn = of_ranks(params, real[:RANKS])
        found[name] = {
            "real": unions([torch.cat([each.flatten() for each in one]) for one in real]),
            "rehearsed": unions([gradient_of(drawn, params, rank) for rank in range(ranks)]),
        }
        for kind, sizes in found[name].items():
            print(f"{name:5} {kind:10}", ", ".join(f"{n} ranks {times:.2f} k" for n, times in sizes.items()))
    write("scale_unions.json", {"density": DENSITY, "measured": RANKS, "unions": found})


def gradient_of(drawn: Gradients, params: list[Tensor], rank: int) -> Tensor:
    buffers = {id(param): torch.empty_like(param) for param in params}
    drawn.write_(buffers, rank)
    return torch.cat([buffer.flatten() for buffer in buffers.values()])


def unions(vectors: list[Tensor]) -> dict[int, float]:
    """The size of the union of the first n ranks' selections, divided by k, for n = 1, 2, 4 and so on."""
    k = int(DENSITY * len(vectors[0]))
    selected = torch.zeros(len(vectors[0]), dtype=torch.bool)
    found: dict[int, float] = {}
    for number, vector in enumerate(vectors, 1):
        selected[vector.abs().topk(k).indices] = True
        if number & (number - 1) == 0:
            found[number] = int(selected.sum()) / k
    return found


if __name__ == "__main__":
    main()
