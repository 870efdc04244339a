"""Norms of many spans of one vector on a GPU: one read, and always the same order of summation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from gradwire.kernels.gpu import loops
from gradwire.kernels.gpu.chunks import cut, launch

STEP = 1024
"""The most chunks whose sums one program adds at a time."""


def norms(x: Tensor, spans: Sequence[tuple[int, int]]) -> list[float]:
    """Compute `reference.norms` of an x that `gpu.serves` accepts, within 1e-12."""
    chunks = cut(spans, x)
    if not chunks.spans:
        return []
    sums = torch.empty(chunks.count, dtype=torch.float64, device=x.device)
    totals = torch.empty(chunks.spans, dtype=torch.float64, device=x.device)
    launch(
        loops.squares, chunks.count,
        x.detach(), chunks.owner, chunks.table, chunks.spans, sums, BLOCK=chunks.block, num_warps=8,
    )  # fmt: skip
    launch(
        loops.gather, chunks.spans,
        sums, chunks.table, chunks.spans, totals, STEP=chunks.steps(STEP), num_warps=4,
    )  # fmt: skip
    return cast(list[float], totals.sqrt_().tolist())
