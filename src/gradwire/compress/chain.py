"""Chain: keep some values, then quantise them as a vector of dimension k.

Wire: | the sparsifier's index block | the quantiser's message in dimension k |.

Two unbiased operators make an unbiased one with omega = omega_1 omega_2 + omega_1 + omega_2 (Horváth et al. 2019,
arXiv:1905.10988, Theorem 5). A projection on coordinates, y = P(x), and a contractive quantiser make a contractive one
with delta = delta_1 delta_2: Q(y) - y and y - x have disjoint supports, so that
    E |Q(y) - x|^2 = |y - x|^2 + E |Q(y) - y|^2 <= (|x|^2 - |y|^2) + (1 - delta_2) |y|^2 = |x|^2 - delta_2 |y|^2,
and E |y|^2 >= delta_1 |x|^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.compress import sparse
from gradwire.compress.protocol import Compressor, Sparsifier, check_length, from_omega, operate
from gradwire.compress.scaled import check_part
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Message, Sparse


@part("chain", "compressor", example="chain(randk(density=0.1), dithering(s=4))")
@dataclass(frozen=True)
class Chain:
    """Sparsify (topk, randk), then quantise the values that are kept."""

    sparsifier: Sparsifier
    quantiser: Compressor

    def __post_init__(self) -> None:
        check_part(self.quantiser, "chain")
        if not isinstance(self.sparsifier, Sparsifier):
            raise TypeError(f"chain starts with a sparsifier, topk or randk, got {self.sparsifier!r}")
        if self.sparsifier.values != "float32":
            raise ValueError(
                f"chain sends values as {self.quantiser} does, so {self.sparsifier} must leave its own format alone, "
                f"got values={self.sparsifier.values!r}"
            )

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)]."""
        fork = turn.fork("sparsifier")
        kept = sparse.select(self.sparsifier, x, fork)
        head = self.sparsifier.encode_indices(kept.indices, kept.d, fork)
        return torch.cat([head, self.quantiser.encode(kept.values, turn.fork("quantiser"))], -1)

    def decode(self, wire: Tensor, d: int) -> Sparse:
        """u8[..., nbytes(d)] -> Sparse with k entries, or fewer if the quantiser is sparse too."""
        check_length(self, wire, d)
        split = self.sparsifier.index_nbytes(d)
        values = self.quantiser.decode(wire[..., split:], self.sparsifier.count(d))
        return _scatter(self.sparsifier.decode_indices(wire[..., :split], d), values, d)

    def apply(self, x: Tensor, turn: Turn) -> Sparse:
        """f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        kept = sparse.select(self.sparsifier, x, turn.fork("sparsifier"))
        return _scatter(kept.indices, operate(self.quantiser, kept.values, turn.fork("quantiser")), kept.d)

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire."""
        return self.sparsifier.index_nbytes(d) + self.quantiser.nbytes(self.sparsifier.count(d))

    def omega(self, d: int) -> float | None:
        """Return omega_1 omega_2 + omega_1 + omega_2 if both are unbiased, else None."""
        first, second = self.sparsifier.omega(d), self.quantiser.omega(self.sparsifier.count(d))
        return None if first is None or second is None else first * second + first + second

    def delta(self, d: int) -> float | None:
        """Return delta_1 delta_2 if the sparsifier is a projection, else 1 - omega; None where neither is positive."""
        first, second = self.sparsifier.delta(d), self.quantiser.delta(self.sparsifier.count(d))
        if self.sparsifier.gain(d) == 1.0:
            return None if first is None or second is None else first * second
        omega = self.omega(d)
        return None if omega is None else from_omega(omega)


def _scatter(indices: Tensor, message: Message, d: int) -> Sparse:
    """Convert a message of dimension k to one of dimension d, at indices int64[..., k]."""
    if isinstance(message, Sparse):
        return Sparse(indices.gather(-1, message.indices), message.values, d)
    return Sparse(indices, message.values, d)
