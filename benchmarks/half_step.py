"""The time of a residual in bfloat16: the hook without communication, compared with float32 in the same run.

    chrt -r 1 python benchmarks/half_step.py

Gradients have the shapes of ResNet-18 (11 M, in units of 25 MB) and of a GPT (12.9 M). There is one process with one thread, and
steps of both dtypes take turns. EF(Top-k)'s gathers are answered at once with its own message twice, as if there were two ranks;
EF(DEFT) and EF(natural) run with one worker, so DEFT searches the whole vector. Rows are the CPU seconds of the hook's thread in a
step: the ratio of bfloat16 to float32, the median over pairs of steps, with quartiles. `accumulate` is the pass over gradients
and residual alone. Writes results/half_step.json.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from rows import Row, row, show, write
from torch import nn

import gradwire
from gradwire import kernels
from gradwire.kernels.accumulated import accumulate
from gradwire.lab.models.gpt import GPT
from gradwire.lab.models.shapes import resnet18

PAIRS, WARM = 15, 3
OPTION = ", dtype='bfloat16')"
SPECS = {
    "EF(Top-k) 1 %": ("ef(topk(density=0.01)", 2),
    "EF(DEFT) 1 %": ("ef(deft(density=0.01)", 1),
    "EF(natural)": ("ef(natural", 1),
}


class Shapes(nn.Module):
    """Parameters of given shapes; `backward` gives each a gradient at almost no cost."""

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(torch.zeros(tuple(shape))) for shape in shapes)
        self.given = [torch.randn(part.shape) for part in self.parts]

    def backward(self) -> None:
        torch.autograd.backward(list(self.parts), [given.clone() for given in self.given])


def main() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    models = {
        "ResNet-18": resnet18().shapes,
        "GPT": [tuple(param.shape) for param in GPT(512, 4).parameters()],
    }
    rows: list[Row] = []
    for model, shapes in models.items():
        rows += judged(f"{model}, accumulate", *map(passes(shapes), (torch.float32, torch.bfloat16)))
        for name, (spec, ranks) in SPECS.items():
            rows += judged(f"{model}, {name}", *(hooked(shapes, spec + end, ranks) for end in (")", OPTION)))
    show(rows)
    write("half_step.json", rows)
    dist.destroy_process_group()


def judged(name: str, whole: Callable[[], float], half: Callable[[], float]) -> list[Row]:
    """Measure both in turn, and make the rows."""
    pairs = [(whole(), half()) for _ in range(WARM + PAIRS)][WARM:]
    low, middle, high = statistics.quantiles([theirs / mine for mine, theirs in pairs], n=4)
    return [
        row(f"{name}: ms with float32", 1e3 * statistics.median(mine for mine, _ in pairs)),
        row(f"{name}: bfloat16 / float32", middle),
        row(f"{name}: first quartile", low),
        row(f"{name}: third quartile", high),
    ]


def passes(shapes: Sequence[Sequence[int]]) -> Callable[[torch.dtype], Callable[[], float]]:
    given = Shapes(shapes).given
    d = sum(piece.numel() for piece in given)

    def of(dtype: torch.dtype) -> Callable[[], float]:
        buffers = [kernels.zeros((d,), dtype, "cpu") for _ in range(2)]

        def step() -> float:
            pieces = [piece.clone() for piece in given]
            started = time.thread_time()
            accumulate(buffers[0], buffers[1], pieces, d // 100, key=7)
            seconds = time.thread_time() - started
            buffers.reverse()
            return seconds

        return step

    return of


def hooked(shapes: Sequence[Sequence[int]], spec: str, ranks: int) -> Callable[[], float]:
    model = Shapes(shapes)
    hook = gradwire.attach(model, spec)
    hook.process.size = ranks
    hook.process._answer = lambda ask: lambda: ask.alone(ranks)  # as if the other workers sent the same
    advance, spent = hook.engine._advance, [0.0]

    def clocked(*arrival: object, **place: bool) -> None:
        started = time.thread_time()
        advance(*arrival, **place)
        spent[0] += time.thread_time() - started

    hook.engine._advance = clocked

    def step() -> float:
        model.zero_grad()
        spent[0] = 0.0
        model.backward()
        return spent[0]

    return step


if __name__ == "__main__":
    main()
