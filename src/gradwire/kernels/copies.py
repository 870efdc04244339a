"""Into and out of a flat vector: a copy that looks at what it copies, and few values for a vector in pieces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, reference


def copy_(target: Tensor, source: Tensor) -> bool:
    """Do what `reference.copy_` does, in one pass."""
    flat = source.view(-1) if source.is_contiguous() else source
    fits = flat.ndim == 1 and compiled.reads(flat, torch.float32, compiled.SHORT)
    if not fits or target.dtype != torch.float32 or not target.is_contiguous():
        return reference.copy_(target, source)
    from gradwire.kernels import cpu

    source_bits, target_bits = (x.detach().numpy().view(np.int32) for x in (flat, target.view(-1)))  # pyright: ignore
    return bool(cpu.copy(source_bits, target_bits))


def scatter_(target: Tensor, indices: Tensor, values: Tensor, ends: Sequence[int], starts: Sequence[int]) -> None:
    """Do what `reference.scatter_` does.

    Raises:
        ValueError: an index or its place lies outside; what comes before it has been added.
    """
    if not (compiled.serve(target) and values.dtype == torch.float32):
        reference.scatter_(target, indices, values, ends, starts)
        return
    from gradwire.kernels import cpu

    where = indices.contiguous().numpy(), values.contiguous().numpy()  # pyright: ignore
    cpu.scatter(target.numpy(), *where, np.array(ends, np.int64), np.array(starts, np.int64))  # pyright: ignore
