"""The messages of sparsifiers: an index block, then the kept values in a format.

A sparsifier (protocol.py) selects values and encodes their indices. The rest is the same for all sparsifiers and is
implemented here; a class uses the functions as its methods:

    encode, decode, apply, nbytes = sparse.encode, sparse.decode, sparse.apply, sparse.nbytes

Wire: | index block: the sparsifier's own, or the default below | value block (wire/values.py) |
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from gradwire import kernels
from gradwire.compress.protocol import Compressor, Sparsifier, check_length
from gradwire.kernels import Accumulated
from gradwire.layout import Turn
from gradwire.vector import Sparse, widen
from gradwire.wire import index
from gradwire.wire import values as formats


def encode(self: Sparsifier, x: Tensor | Accumulated, turn: Turn) -> Tensor:
    """f[..., d] -> u8[..., nbytes(d)]."""
    kept = select(self, x, turn)
    head = self.encode_indices(kept.indices, kept.d, turn)
    return torch.cat([head, formats.encode(kept.values, self.values, _rounding(self, turn).key(shared=False))], -1)


def decode(self: Sparsifier, wire: Tensor, d: int) -> Sparse:
    """u8[..., nbytes(d)] -> Sparse with count(d) entries (ValueError: the bytes are not such a message)."""
    check_length(cast(Compressor, self), wire, d)  # a sparsifier with these methods is a compressor
    split = self.index_nbytes(d)
    values = formats.decode(wire[..., split:], self.values, self.count(d))
    return Sparse(self.decode_indices(wire[..., :split], d), values, d)


def apply(self: Sparsifier, x: Tensor | Accumulated, turn: Turn) -> Sparse:
    """f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
    kept = select(self, x, turn)
    return Sparse(kept.indices, formats.decoded(kept.values, self.values, _rounding(self, turn)), kept.d)


def nbytes(self: Sparsifier, d: int) -> int:
    """Return the number of bytes on the wire."""
    return self.index_nbytes(d) + formats.nbytes(self.values, self.count(d))


def encode_indices(self: Sparsifier, indices: Tensor, d: int, turn: Turn) -> Tensor:
    """int64[..., count(d)] -> u8[..., index_nbytes(d)]: the default index block, for any indices (wire/index.py)."""
    return index.encode(indices, d)


def decode_indices(self: Sparsifier, wire: Tensor, d: int) -> Tensor:
    """u8[..., index_nbytes(d)] -> int64[..., count(d)]."""
    return index.decode(wire, d, self.count(d))


def index_nbytes(self: Sparsifier, d: int) -> int:
    """Return the number of bytes of the default index block."""
    return index.nbytes(d, self.count(d))


def unscaled(self: Sparsifier, d: int) -> float:
    """Return 1: the `gain` of a sparsifier that does not scale values."""
    return 1.0


def biased(self: Sparsifier, d: int) -> float | None:
    """Return the format's omega if everything is kept, else None: the `omega` of a biased sparsifier."""
    return formats.OMEGA[self.values] if self.count(d) == d else None


def select(sparsifier: Sparsifier, x: Tensor | Accumulated, turn: Turn) -> Sparse:
    """f[..., d] -> the kept values times the gain."""
    indices = sparsifier.choose(cast(Tensor, x), turn)  # x is an `Accumulated` for `Selective` sparsifiers only
    x = kernels.values(x)
    gain = sparsifier.gain(x.shape[-1])
    # Equal results, but `index_select` takes half as long.
    values = widen(x.index_select(0, indices) if x.ndim == 1 else x.gather(-1, indices))
    return Sparse(indices, values if gain == 1.0 else values.mul_(gain), x.shape[-1])


def _rounding(sparsifier: Sparsifier, turn: Turn) -> Turn:
    """Return the turn whose randomness rounds the values: a fork if `choose` has drawn, to be independent of it."""
    # Only the format natural draws, and a fork costs more than a short row of values.
    return turn.fork("values") if sparsifier.draws and sparsifier.values == "natural" else turn
