"""A copy that looks at what it copies."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, reference


def copy_(target: Tensor, source: Tensor) -> bool:
    """Do what `reference.copy_` does, in one read of the source."""
    flat, into = source.view(-1) if source.is_contiguous() else source, target
    if not (flat.ndim == 1 and compiled.serve(flat) and into.is_contiguous() and into.dtype == torch.float32):
        return reference.copy_(target, source)
    from gradwire.kernels import cpu

    return bool(cpu.copy(flat.detach().numpy().view(np.int32), into.view(-1).numpy().view(np.int32)))  # pyright: ignore
