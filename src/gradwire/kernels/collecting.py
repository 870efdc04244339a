"""Numba's pass that adds pieces to a residual and collects the elements that reach a threshold (cpu/collecting.py)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, half, splitmix
from gradwire.kernels.compiled import Numbers


def accumulate(
    x: Tensor,
    residual: Tensor,
    pieces: Sequence[Tensor],
    largest: int,
    decay: float,
    layers: Sequence[tuple[int, int]] = (),
    key: int = 0,
) -> tuple[bool, Numbers, list[float]]:
    """Do `accumulated.accumulate` for a long vector and contiguous pieces f32[m]; return finite, keys and norms.

    x and residual are both f32[d] or both bf16[d].

    Raises:
        ValueError: layers are given that are not consecutive or do not cover the vector.
    """
    from gradwire.kernels import cpu

    narrow, factor, word = x.dtype == torch.bfloat16, np.float32(decay), splitmix.word(key)
    target, added = map(compiled.halves if narrow else compiled.vector, (x, residual))
    parts: list[Any] = [piece.detach().numpy() for piece in pieces]  # pyright: ignore
    ends = list(itertools.accumulate(map(len, parts)))
    threshold, scratch = cpu.INFINITE, compiled.scratch.keys(cpu.buffer_size(len(x), largest))
    if 0 < 4 * largest <= len(x) and len(x) >= cpu.SAMPLED:
        sampled = 0
        for part, end in zip(parts, ends, strict=True):
            sampled = cpu.sample(part, added, factor, end - len(part), largest, scratch[0], sampled)
        threshold = cpu.threshold(len(x), largest, scratch[0], scratch[1])
        if narrow:  # the sample was not rounded, so lower the threshold to the next bfloat16
            threshold &= int(half.KEPT)
    # Without layers the whole vector is one: a pass that also reads what it writes, for the squares, is faster by a
    # sixth than one that only writes, because the processor then prefetches the memory.
    stops = _ends(layers or [(0, len(x))], len(x))
    sums = np.zeros(len(stops))
    keys, found, sound = np.empty(cpu.buffer_size(len(x), largest) if largest else 0, np.int64), 0, True
    for part, end in zip(parts, ends, strict=True):
        found, clean = cpu.move(
            part, added, factor, target, end - len(part), np.int32(threshold), keys, found, stops, sums, word
        )
        sound &= bool(clean)
    return sound, keys[: max(0, found)], np.sqrt(sums).tolist() if layers else []


def _ends(layers: Sequence[tuple[int, int]], d: int) -> Numbers:
    if [start for start, _ in layers] != [0, *(end for _, end in layers[:-1])] or layers[-1][1] != d:
        raise ValueError(f"layers must lie one after the other and make up all {d} elements")
    return np.array([end for _, end in layers], np.int64)


def among(keys: Numbers, k: int) -> Tensor:
    """Indices int64[k] of the k largest of keys i64[m], 0 < k <= m, in the keys' order."""
    from gradwire.kernels import cpu

    out = np.empty(k, np.int64)
    cpu.among(keys, out, compiled.scratch.keys(len(keys))[0])
    return torch.from_numpy(out)
