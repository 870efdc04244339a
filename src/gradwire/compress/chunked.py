"""Top-k of every chunk: keep the density * chunk largest magnitudes of each run of `chunk` neighbours.

The selection of DeMo (Peng et al. 2024, arXiv:2411.19870) and SparseLoCo (Sarfi et al. 2025, arXiv:2508.15706), which
keep 64 of 4096. Biased, contractive with delta = k / d of the chunk that keeps the smallest fraction. The last chunk
has d % chunk elements if that is not 0, and keeps at least one.
Wire: | index block (wire/chunks.py) | value block (wire/values.py) |, one value block for all chunks.

If at least 4 of 4096 are kept, messages have as many bytes as Top-k's. Selecting takes four times as long (12 ms
instead of 3 for 10 million elements on one core). `blockwise(topk(...), size=4096)` selects the same values, but sends
levels and padding for each block: at 64 of 4096 with bits2, 11.0 bits per value instead of 10.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.checks import is_whole
from gradwire.compress import sparse
from gradwire.compress.protocol import check_density, kept
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.wire import values as formats
from gradwire.wire.chunks import ChunkIndices


@part("chunkedtopk", "compressor", example="chunkedtopk(density=0.015625, values='bits2')")
@dataclass(frozen=True)
class ChunkedTopK:
    """Keep the density * chunk largest magnitudes of each chunk, at least one."""

    density: float
    values: formats.Format = "float32"
    chunk: int = 4096
    draws: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density(self.density))
        formats.check(self.values)
        if not is_whole(self.chunk) or self.chunk < 1:
            raise ValueError(f"chunk must be a whole number of elements, at least 1, got {self.chunk!r}")

    encode, decode, apply, nbytes = sparse.encode, sparse.decode, sparse.apply, sparse.nbytes
    gain, omega = sparse.unscaled, sparse.biased

    def count(self, d: int) -> int:
        """Return the number of d values that are kept."""
        return self._chunks(d).count

    def choose(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> int64[..., k], the increasing indices of each chunk's largest magnitudes."""
        d, chunks = x.shape[-1], self._chunks(x.shape[-1])
        number, end = d // self.chunk, d - d % self.chunk
        # The kernels need contiguous rows. For a single vector this copies nothing.
        rows = x[..., :end].contiguous().view(*x.shape[:-1], number, self.chunk)
        starts = self.chunk * torch.arange(number, device=x.device).unsqueeze(-1)
        whole = (kernels.topk(rows, chunks.kept) + starts).flatten(-2)
        return torch.cat([whole, kernels.topk(x[..., end:].contiguous(), chunks.last) + end], -1)

    def encode_indices(self, indices: Tensor, d: int, turn: Turn) -> Tensor:
        """int64[..., k] -> u8[..., index_nbytes(d)]."""
        return self._chunks(d).encode(indices)

    def decode_indices(self, wire: Tensor, d: int) -> Tensor:
        """u8[..., index_nbytes(d)] -> int64[..., k]."""
        return self._chunks(d).decode(wire)

    def index_nbytes(self, d: int) -> int:
        """Return the bytes of the index block, in its shorter form."""
        return self._chunks(d).nbytes

    def delta(self, d: int) -> float | None:
        """Return the smallest k / d of a chunk times the contraction of the value format."""
        return formats.delta(self.values, self.count(d)) * self._chunks(d).fraction

    def _chunks(self, d: int) -> ChunkIndices:
        return _chunks(self.density, self.chunk, d)


@lru_cache(maxsize=4096)
def _chunks(density: float, size: int, d: int) -> ChunkIndices:
    """Return the index format; cached, because computing it takes longer than compressing a short vector."""
    return ChunkIndices(d, size, kept(density, size), kept(density, d % size))
