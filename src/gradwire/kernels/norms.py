"""Norms: L2 norms of many spans of one vector, and p-norms of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu, host, reference
from gradwire.kernels.kernel import Kernel, Twin

Spans = Sequence[tuple[int, int]]


def _on_gpu(x: Tensor, spans: Spans) -> bool:
    return gpu.serves(x)


def _by_numba(x: Tensor, spans: Spans) -> list[float]:
    from gradwire.kernels import cpu

    return cpu.norms(compiled.vector(x), np.array(spans, np.int64).reshape(-1, 2)).tolist()


def _by_numpy(x: Tensor, spans: Spans) -> list[float]:
    return host.norms(host.values(x), spans)


norms = Kernel(
    reference.norms,
    cpu=(Twin("numba", compiled.long_vector, _by_numba), Twin("numpy", host.reads, _by_numpy)),
    gpu=(Twin("triton", _on_gpu, gpu.norms),),
)
"""Within a relative 1e-12 of the reference; in the host's memory each element is read once."""


def _long_rows(x: Tensor, p: float = 2.0) -> bool:
    return p == 2.0 and compiled.long_rows(x)  # float64 holds the squares of all float32


def _rows_by_numba(x: Tensor, p: float = 2.0) -> Tensor:
    from gradwire.kernels import cpu

    starts = np.arange(x.shape[:-1].numel()) * x.shape[-1]
    lengths = cpu.norms(compiled.vector(x), np.stack([starts, starts + x.shape[-1]], 1))
    return torch.from_numpy(lengths).view(*x.shape[:-1], 1)


row_norms = Kernel(reference.row_norms, cpu=(Twin("numba", _long_rows, _rows_by_numba),))
"""Within a relative 1e-12 of the reference."""
