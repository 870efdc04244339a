"""Places by a threshold, and values added at places."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu, reference


def indices_above(x: Tensor, least: float) -> Tensor:
    """Do what `reference.indices_above` does, in one read of a finite x f[d]."""
    # A threshold that is no number above zero takes everything, or nothing: rare, and not what the bits say.
    if 0 < least < float("inf") and gpu.serve(x):
        return gpu.indices_above(x, least)
    if not 0 < least < float("inf") or not compiled.serve(x):
        return reference.indices_above(x, least)
    from gradwire.kernels import cpu

    bits = x.detach().numpy().view(np.int32)  # pyright: ignore
    border = int(torch.tensor(least, dtype=torch.float32).view(torch.int32))
    # Behind what is written no page is touched, and the end is given back.
    out = np.empty(len(bits), np.int64)
    out.resize(cpu.indices_above(bits, border, out), refcheck=False)
    return torch.from_numpy(out)


def scatter_add_(target: Tensor, indices: Tensor, values: Tensor, alpha: float = 1.0) -> Tensor:
    """Do what `reference.scatter_add_` does, in its order; in the host's memory torch's own loop is as fast as any.

    Raises:
        ValueError: not as many values as indices.
    """
    if len(values) != len(indices):
        raise ValueError(f"every index needs its value, got {len(indices)} indices and {len(values)} values")
    if gpu.serve(target) and gpu.serve(indices, torch.int64) and gpu.serve(values):
        return gpu.scatter_add_(target, indices, values, alpha)
    return reference.scatter_add_(target, indices, values, alpha)
