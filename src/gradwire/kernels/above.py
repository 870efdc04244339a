"""Indices of the elements whose magnitude reaches a threshold."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu, reference
from gradwire.kernels.kernel import Kernel, Twin


def _on_gpu(x: Tensor, threshold: float) -> bool:
    return _usual(threshold) and gpu.serves(x)


def _long_vector(x: Tensor, threshold: float) -> bool:
    return x.numel() >= compiled.LONG and _usual(threshold) and compiled.long_vector(x)


def _usual(threshold: float) -> bool:
    """Whether the twins may compare bits: other thresholds select all or nothing, are rare, and are left out."""
    return 0 < threshold < float("inf")


def _by_numba(x: Tensor, threshold: float) -> Tensor:
    from gradwire.kernels import cpu

    bits = compiled.vector(x).view(np.int32)
    threshold_bits = int(torch.tensor(threshold, dtype=torch.float32).view(torch.int32))
    # Pages behind the written part are never touched, and `resize` returns them.
    out = np.empty(len(bits), np.int64)
    out.resize(cpu.indices_above(bits, threshold_bits, out), refcheck=False)
    return torch.from_numpy(out)


indices_above = Kernel(
    reference.indices_above,
    cpu=(Twin("numba", _long_vector, _by_numba),),
    gpu=(Twin("triton", _on_gpu, gpu.indices_above),),
)
