"""Parameter names and shapes, without weights, of the models that DEFT was measured on, and of GPT-2.

How a model is partitioned, packed and searched depends on sizes only, so layouts stand in for models where time and
cost are measured. Totals, from the authors' code: ResNet-18 11,173,962; LSTM 28,949,319; NeuMF 31,832,577. GPT-2 is
the published 124 M model with tied embeddings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TypeAlias

from gradwire.layout import Layout

Named: TypeAlias = tuple[str, tuple[int, ...]]


def resnet18() -> Layout:
    """ResNet-18 for CIFAR-10: a first convolution of 3 x 3, four stages of two basic blocks, 62 tensors."""
    return _layout(
        [
            *_convolution("conv1", "bn1", 64, 3, 3),
            *(named for stage in range(4) for block in range(2) for named in _block(stage, block)),
            ("linear.weight", (10, 512)),
            ("linear.bias", (10,)),
        ]
    )


def lstm(vocabulary: int = 28_869, width: int = 650, depth: int = 3) -> Layout:
    """A word-level LSTM for WikiText-2; the decoder's weight is tied to the encoder's and listed once; 14 tensors."""
    return _layout(
        [
            ("encoder.weight", (vocabulary, width)),
            *(named for layer in range(depth) for named in _cell(layer, width)),
            ("decoder.bias", (vocabulary,)),
        ]
    )


def neumf(users: int = 138_493, items: int = 26_744, factors: int = 64) -> Layout:
    """Neural matrix factorisation for MovieLens-20M with a perceptron of 256-256-128-64: 12 tensors."""
    widths = (256, 256, 128, 64)
    return _layout(
        [
            ("mf_user_embed.weight", (users, factors)),
            ("mf_item_embed.weight", (items, factors)),
            ("mlp_user_embed.weight", (users, widths[0] // 2)),
            ("mlp_item_embed.weight", (items, widths[0] // 2)),
            *(
                named
                for layer, (given, made) in enumerate(itertools.pairwise(widths))
                for named in _linear(f"mlp.{layer}", made, given)
            ),
            *_linear("final", 1, factors + widths[-1]),
        ]
    )


def gpt2(vocabulary: int = 50_257, context: int = 1024, width: int = 768, depth: int = 12) -> Layout:
    """GPT-2 with 124 M parameters; the head is tied to the embedding; matrices are [in, out]; 148 tensors."""
    return _layout(
        [
            ("wte.weight", (vocabulary, width)),
            ("wpe.weight", (context, width)),
            *(named for layer in range(depth) for named in _transformer(f"h.{layer}", width)),
            *_affine("ln_f", width),
        ]
    )


def _layout(named: list[Named]) -> Layout:
    return Layout([name for name, _ in named], [shape for _, shape in named])


def _affine(name: str, width: int) -> list[Named]:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def _linear(name: str, rows: int, columns: int) -> list[Named]:
    return [(f"{name}.weight", (rows, columns)), (f"{name}.bias", (rows,))]


def _convolution(name: str, norm: str, made: int, given: int, side: int) -> list[Named]:
    return [(f"{name}.weight", (made, given, side, side)), *_affine(norm, made)]


def _block(stage: int, block: int) -> Iterator[Named]:
    """A basic block; the first block of every later stage doubles the channels and projects its shortcut."""
    made, name = 64 << stage, f"layer{stage + 1}.{block}"
    narrows = stage > 0 and block == 0
    yield from _convolution(f"{name}.conv1", f"{name}.bn1", made, made // 2 if narrows else made, 3)
    yield from _convolution(f"{name}.conv2", f"{name}.bn2", made, made, 3)
    if narrows:
        yield from _convolution(f"{name}.shortcut.0", f"{name}.shortcut.1", made, made // 2, 1)


def _cell(layer: int, width: int) -> list[Named]:
    gates = 4 * width
    return [
        (f"rnn.weight_ih_l{layer}", (gates, width)),
        (f"rnn.weight_hh_l{layer}", (gates, width)),
        (f"rnn.bias_ih_l{layer}", (gates,)),
        (f"rnn.bias_hh_l{layer}", (gates,)),
    ]


def _transformer(name: str, width: int) -> Iterator[Named]:
    yield from _affine(f"{name}.ln_1", width)
    for part, given, made in (("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width)):
        yield from [(f"{name}.{part}.weight", (given, made)), (f"{name}.{part}.bias", (made,))]
    yield from _affine(f"{name}.ln_2", width)
    for part, given, made in (("mlp.c_fc", width, 4 * width), ("mlp.c_proj", 4 * width, width)):
        yield from [(f"{name}.{part}.weight", (given, made)), (f"{name}.{part}.bias", (made,))]


MODELS: Mapping[str, Layout] = MappingProxyType(
    {"gpt2": gpt2(), "lstm": lstm(), "neumf": neumf(), "resnet18": resnet18()}
)
"""Layouts by name."""

DENSITIES: Mapping[str, float] = MappingProxyType({"gpt2": 0.001, "lstm": 0.001, "neumf": 0.1, "resnet18": 0.01})
"""The paper's densities for its three models; for GPT-2 a common choice, not the paper's."""
