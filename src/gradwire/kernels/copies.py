"""Copies into and out of a flat vector: a copy that checks finiteness, sparse updates, and zeros in huge pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu, reference
from gradwire.kernels.kernel import Kernel, Twin


def _copies(target: Tensor, source: Tensor) -> bool:
    if source.numel() < compiled.SHORT or not (source.ndim == 1 or source.is_contiguous()):
        return False
    return target.dtype == torch.float32 and target.is_contiguous() and compiled.reads(source, torch.float32)


def _copy_by_numba(target: Tensor, source: Tensor) -> bool:
    from gradwire.kernels import cpu

    flat = source.view(-1) if source.is_contiguous() else source
    source_bits, target_bits = (x.detach().numpy().view(np.int32) for x in (flat, target.view(-1)))  # pyright: ignore
    return bool(cpu.copy(source_bits, target_bits))


copy_ = Kernel(reference.copy_, cpu=(Twin("numba", _copies, _copy_by_numba),))


def _scatters(target: Tensor, indices: Tensor, values: Tensor, ends: Sequence[int], starts: Sequence[int]) -> bool:
    return compiled.long_vector(target) and values.dtype == torch.float32


def _scatter_by_numba(
    target: Tensor, indices: Tensor, values: Tensor, ends: Sequence[int], starts: Sequence[int]
) -> None:
    from gradwire.kernels import cpu

    where = indices.contiguous().numpy(), values.contiguous().numpy()  # pyright: ignore
    cpu.scatter(target.numpy(), *where, np.array(ends, np.int64), np.array(starts, np.int64))  # pyright: ignore


scatter_ = Kernel(reference.scatter_, cpu=(Twin("numba", _scatters, _scatter_by_numba),))
"""Raises ValueError if an index or its piece lies outside; values before it have been added."""


def _adds_on_gpu(target: Tensor, indices: Tensor, values: Tensor, alpha: float = 1.0) -> bool:
    return gpu.serves(target) and gpu.serves(indices, torch.int64) and gpu.serves(values)


scatter_add_ = Kernel(reference.scatter_add_, gpu=(Twin("triton", _adds_on_gpu, gpu.scatter_add_),))
"""Adds in the order of the indices on every device. There is no CPU twin, as torch's own loop is as fast as any."""


_SAME_SIZE: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.bfloat16: np.int16,  # NumPy has no bfloat16, but zeros have the same bits in all dtypes
}


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Make a tensor of zeros; in the host's memory by NumPy, which asks for huge pages.

    A pass over 45 MB in small pages takes a tenth longer, and a search of separate parts nearly twice as long.
    """
    if torch.device(device).type != "cpu" or dtype not in _SAME_SIZE:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, _SAME_SIZE[dtype])).view(dtype)
