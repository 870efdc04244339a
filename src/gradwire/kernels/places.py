"""Places by a threshold, and values at places."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu, reference


def passing(x: Tensor, least: float) -> Tensor:
    """Do what `reference.passing` does, in one read of a finite x f[d]."""
    # A threshold that is no number above zero takes everything, or nothing: rare, and not what the bits say.
    if 0 < least < float("inf") and gpu.serve(x):
        return gpu.passing(x, least)
    if not 0 < least < float("inf") or not compiled.serve(x):
        return reference.passing(x, least)
    from gradwire.kernels import cpu

    bits = x.detach().numpy().view(np.int32)  # pyright: ignore
    border = int(torch.tensor(least, dtype=torch.float32).view(torch.int32))
    # Behind what is written no page is touched, and the end is given back.
    out = np.empty(len(bits), np.int64)
    out.resize(cpu.passing(bits, border, out), refcheck=False)
    return torch.from_numpy(out)


def scatter_add_(target: Tensor, indices: Tensor, values: Tensor, alpha: float = 1.0) -> Tensor:
    """Do what `reference.scatter_add_` does, where the products need no memory of their own.

    Raises:
        ValueError: an index that is not below d; what comes before it has been added.
    """
    if gpu.serve(target) and gpu.serve(indices, torch.int64) and gpu.serve(values):
        return gpu.scatter_add_(target, indices, values, alpha)
    if not (compiled.serve(target) and _fits(indices, torch.int64) and _fits(values, torch.float32)):
        return reference.scatter_add_(target, indices, values, alpha)
    if len(values) != len(indices):
        raise ValueError(f"every index needs its value, got {len(indices)} indices and {len(values)} values")
    from gradwire.kernels import cpu

    cpu.scatter_add(target.detach().numpy(), indices.numpy(), values.detach().numpy(), np.float32(alpha))  # pyright: ignore
    return target


def _fits(x: Tensor, dtype: torch.dtype) -> bool:
    return x.ndim == 1 and x.dtype == dtype and x.device.type == "cpu" and x.is_contiguous()
