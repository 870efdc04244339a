"""Induced: an unbiased operator Q corrects the error of a contractive one C: x -> C(x) + Q(x - C(x)).

Unbiased with omega = omega_Q (1 - delta_C), whatever the bias of C (Horváth and Richtárik 2021, arXiv:2006.11077,
Theorem 3): given C(x), E |Q(x - C(x)) - (x - C(x))|^2 <= omega_Q |x - C(x)|^2, and on average over C's own randomness
|x - C(x)|^2 <= (1 - delta_C) |x|^2. The two operators draw independently. C(x) is the decoded message, so the rounding
of its value format is corrected too. Wire: | C's message | Q's message |.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwire.compress.protocol import Compressor, from_omega, operate
from gradwire.compress.scaled import check_part, precision
from gradwire.layout import Turn
from gradwire.registry import part
from gradwire.vector import Dense, Message, Sparse


@part("induced", "compressor", example="induced(topk(density=0.05), randk(density=0.05))")
@dataclass(frozen=True)
class Induced:
    """Make a contractive operator unbiased: an unbiased operator sends its error."""

    contractive: Compressor
    correction: Compressor

    def __post_init__(self) -> None:
        check_part(self.contractive, "induced")
        check_part(self.correction, "induced")
        if self.contractive.delta(1024) is None:
            raise ValueError(
                f"induced takes a contractive operator first, and {self.contractive} may expand a vector; "
                "wrap it in scaled(...)"
            )
        if self.correction.omega(1024) is None:
            raise ValueError(f"induced corrects by an unbiased operator, and {self.correction} is biased; use randk")

    def encode(self, x: Tensor, turn: Turn) -> Tensor:
        """f[..., d] -> u8[..., nbytes(d)]."""
        first = self.contractive.encode(x, turn.fork("contractive"))
        rest = _without(x, self.contractive.decode(first, x.shape[-1]))
        return torch.cat([first, self.correction.encode(rest, turn.fork("correction"))], -1)

    def decode(self, wire: Tensor, d: int) -> Message:
        """u8[..., nbytes(d)] -> Sparse if both parts are, else Dense."""
        split = self.contractive.nbytes(d)
        return _sum(self.contractive.decode(wire[..., :split], d), self.correction.decode(wire[..., split:], d))

    def apply(self, x: Tensor, turn: Turn) -> Message:
        """f[..., d] -> C(x), as a peer decodes it, in x's dtype."""
        first = operate(self.contractive, x, turn.fork("contractive"))
        second = operate(self.correction, _without(x, first), turn.fork("correction"))
        return _sum(first.to(precision(self.contractive)), second.to(precision(self.correction))).to(x.dtype)

    def nbytes(self, d: int) -> int:
        """Return the number of bytes on the wire, the sum of both."""
        return self.contractive.nbytes(d) + self.correction.nbytes(d)

    def omega(self, d: int) -> float | None:
        """Return omega_Q (1 - delta_C)."""
        return (self.correction.omega(d) or 0.0) * (1 - (self.contractive.delta(d) or 0.0))

    def delta(self, d: int) -> float | None:
        """Return 1 - omega if that is positive, else None; `scaled` makes it contractive."""
        return from_omega(self.omega(d) or 0.0)


def _without(x: Tensor, message: Message) -> Tensor:
    """Return x f[..., d] minus a message, in x's dtype."""
    rest = x.clone(memory_format=torch.contiguous_format)
    message.to(x.dtype).add_to_(rest, -1.0)
    return rest


def _sum(first: Message, second: Message) -> Message:
    """Return C(x) + Q(x - C(x)). Entries of two sparse vectors are concatenated, because equal indices add up."""
    if isinstance(first, Sparse) and isinstance(second, Sparse):
        return Sparse(
            torch.cat([first.indices, second.indices], -1), torch.cat([first.values, second.values], -1), first.d
        )
    return Dense(first.dense() + second.dense())
