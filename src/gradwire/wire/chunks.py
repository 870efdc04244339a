"""Indices with a known number in every chunk of a vector, in the shorter of two forms; both ends know which.

Wire: | k values of ceil(log2(size)) bits: the index minus the start of its chunk |, padded to a whole byte,
or, where that is not longer: | the index block of wire/index.py |.

The offsets that SparseLoCo sends (arXiv:2508.15706) take 12 bits in chunks of 4096, whatever the density. Elias-Fano
takes 8.0 bits at 64 of 4096, and more than 12 only at 3 of 4096 and below (12.3, 13.0 and 14.0 bits).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradwire.wire import bits, index


@dataclass(frozen=True)
class ChunkIndices:
    """d elements in chunks of `size`, of which `kept` indices each are sent; `last` from a shorter chunk at the end."""

    d: int
    size: int
    kept: int
    last: int

    @property
    def count(self) -> int:
        """k, the number of indices of all chunks."""
        return self.d // self.size * self.kept + self.last

    @property
    def fraction(self) -> float:
        """The smallest fraction of a chunk that is sent; 1 for an empty vector."""
        whole = self.kept / self.size if self.d >= self.size else 1.0
        return min(whole, self.last / rest) if (rest := self.d % self.size) else whole

    @cached_property
    def offsets(self) -> bool:
        """Whether offsets are shorter than Elias-Fano coding."""
        return self._offset_nbytes < index.nbytes(self.d, self.count)

    @property
    def nbytes(self) -> int:
        """The bytes of the shorter form."""
        return self._offset_nbytes if self.offsets else index.nbytes(self.d, self.count)

    def encode(self, indices: Tensor) -> Tensor:
        """int64[..., k], increasing, with the known number in each chunk -> u8[..., nbytes]."""
        if not self.offsets:
            return index.encode(indices, self.d)
        return bits.pack(indices - self._starts(indices.device), self._width)

    def decode(self, wire: Tensor) -> Tensor:
        """u8[..., nbytes] -> int64[..., k].

        Raises:
            ValueError: the bytes do not encode k increasing indices below d, with the known number in each chunk.
        """
        if not self.offsets:
            return index.decode(wire, self.d, self.count)
        offsets = bits.unpack(wire, self._width, self.count)
        indices = offsets + self._starts(wire.device)
        falling = indices[..., 1:] <= indices[..., :-1]
        if bool(falling.any()) or bool((offsets >= self.size).any()) or bool((indices >= self.d).any()):
            raise ValueError(f"the bytes are not {self.count} increasing indices below {self.d}")
        return indices

    @property
    def _width(self) -> int:
        return (self.size - 1).bit_length()

    @property
    def _offset_nbytes(self) -> int:
        return bits.nbytes(self.count, self._width)

    def _starts(self, device: torch.device) -> Tensor:
        """Return the start of each index's chunk: int64[k]."""
        whole = self.d // self.size
        number = torch.arange(self.count, device=device) // max(1, self.kept)
        return number.clamp_(max=whole) * self.size
