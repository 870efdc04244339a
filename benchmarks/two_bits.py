"""The error of two-bit values: `bits2` compared with SparseLoCo's four bins, on the values that Top-k keeps.

    python benchmarks/two_bits.py

Vectors: normal, Laplace, and differences of models after ten local steps (a GPT of 0.12 M parameters on the standard library's
source, AdamW at 3e-3, batch 8, after 100 steps). 1/64 of the values is kept: of the whole vector, of each tensor (one message
each), or of each chunk of 4096. The error is |x - Q(x)|^2 / |x|^2 of the kept values x, the mean over three seeds; "held" is
their fraction of the vector's squared norm. Writes results/two_bits.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from rows import Row, row, show, write
from torch import Tensor

import gradwire as gw
from gradwire.compress.chunked import ChunkedTopK
from gradwire.compress.topk import TopK
from gradwire.lab import corpus
from gradwire.lab.models.gpt import GPT
from gradwire.wire import values

DENSITY, BINS, SIGMAS, CODEBOOK = 1 / 64, 4, 6, 16
SEEDS = (0, 1, 2)
STEPS, LOCAL, BATCH, CONTEXT, RATE = 100, 10, 8, 64, 3e-3
Select = Callable[[Sequence[Tensor]], list[Tensor]]


def main() -> None:
    torch.set_num_threads(1)
    text = corpus.standard_library()
    vectors = {
        "normal": [[torch.randn(1 << 20, generator=_rng(seed))] for seed in SEEDS],
        "Laplace": [[_laplace(1 << 20, seed)] for seed in SEEDS],
        "ten steps of a GPT": [difference(text, seed) for seed in SEEDS],
    }
    rows: list[Row] = []
    for name, found in vectors.items():
        for way, select in SELECTIONS.items():
            if way != "each tensor" or len(found[0]) > 1:
                rows += compare(f"{name}, {way}", found, select)
    show(rows)
    write("two_bits.json", rows)


def compare(name: str, vectors: Sequence[Sequence[Tensor]], select: Select) -> list[Row]:
    """Make the rows: the fraction of the squared norm that is kept, and for both codes error and bytes of the values."""
    rows = [row(f"{name}: held", _mean([_squares(select(each)) / _squares(each) for each in vectors]))]
    for code, (quantise, nbytes) in CODES.items():
        messages = [select(each) for each in vectors]
        errors = [_squares([x - quantise(x) for x in kept]) / _squares(kept) for kept in messages]
        rows.append(row(f"{name}: error of {code}", _mean(errors)))
        rows.append(row(f"{name}: bytes of {code}", sum(nbytes(len(x)) for x in messages[0])))
    return rows


def bits2(x: Tensor) -> Tensor:
    """f32[k] -> f32[k], encoded by bits2 and decoded."""
    return values.decode(values.encode(x, "bits2"), "bits2", len(x))


def four_bins(x: Tensor) -> Tensor:
    """f32[k] -> f32[k], each value's bin mean; four bins around the mean, each 6 / 4 standard deviations wide."""
    width = SIGMAS / BINS * x.std() if len(x) > 1 else x.new_ones(())
    if not width > 0:
        width = x.new_ones(())
    member_of = ((x - x.mean()) / width + BINS // 2).round().clamp(0, BINS - 1).long()
    sums = x.new_zeros(BINS).index_add_(0, member_of, x)
    return (sums / member_of.bincount(minlength=BINS).clamp(min=1))[member_of]


def difference(text: corpus.Corpus, seed: int) -> list[Tensor]:
    """Anchor minus model after LOCAL local steps, a flat tensor for each parameter."""
    torch.manual_seed(seed)
    model, rng = GPT(64, 2, 4, CONTEXT), _rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    anchor: list[Tensor] = []
    for step in range(STEPS + LOCAL):
        if step == STEPS:
            anchor = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.zero_grad()
        model(*text.batch(BATCH, CONTEXT, rng)).backward()
        optimizer.step()
    return [(old - new.detach()).flatten() for old, new in zip(anchor, model.parameters(), strict=True)]


def _whole(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [_kept(TopK(DENSITY), torch.cat(list(tensors)))]


def _each(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [_kept(TopK(DENSITY), x) for x in tensors]


def _chunks(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [_kept(ChunkedTopK(DENSITY), torch.cat(list(tensors)))]


def _kept(compressor: TopK | ChunkedTopK, x: Tensor) -> Tensor:
    return x[compressor.choose(x, gw.Turn(0, 1, 0, gw.Layout(["x"], [(len(x),)])))]


def _squares(tensors: Sequence[Tensor]) -> float:
    return math.fsum(float(x.double().square().sum()) for x in tensors)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _laplace(d: int, seed: int) -> Tensor:
    x = torch.empty(2, d).exponential_(generator=_rng(seed))
    return x[0] - x[1]


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SELECTIONS: dict[str, Select] = {"whole vector": _whole, "each tensor": _each, "chunks of 4096": _chunks}
CODES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[int], int]]] = {
    "bits2": (bits2, lambda k: values.nbytes("bits2", k)),
    "four bins": (four_bins, lambda k: CODEBOOK + (k + 3) // 4),
}


if __name__ == "__main__":
    main()
