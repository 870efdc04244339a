"""One trial of a law on one case, and the sentence with which it fails."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from gradwire.exchange.law import BrokenLaw, largest_difference
from gradwire.layout import Layout

LAYOUT = Layout(
    ["wide", "bias", "empty", "square", "one", "long"],
    [(40, 7), (7,), (0,), (13, 13), (), (201,)],
)
"""A layout of edge cases: a tensor larger than d / n, an empty one, a scalar."""


@dataclass(frozen=True)
class Trial:
    """A law checked on a part in one case; `where` names all that is needed to repeat it, such as "d = 7, seed = 3"."""

    law: str
    part: str
    where: str

    def fail(self, words: str) -> NoReturn:
        """Raise BrokenLaw with the law, the part, the case and these words."""
        raise BrokenLaw(f"{self.part} breaks the law '{self.law}' ({self.where}): {words}")

    def require(self, holds: bool, words: str) -> None:
        """Fail with these words unless a condition holds."""
        if not holds:
            self.fail(words)

    def same(self, found: Tensor, wanted: Tensor, words: str) -> None:
        """Fail unless two tensors have the same dtype, shape and values; NaN equals NaN."""
        self.close(found, wanted, 0.0, words)

    def close(self, found: Tensor, wanted: Tensor, within: float | Tensor, words: str) -> None:
        """Fail unless two tensors have the same dtype and shape, and values that differ by at most `within`.

        `within` is a number, or f[..., d] with a tolerance for each value.
        """
        if found.dtype != wanted.dtype or found.shape != wanted.shape:
            self.fail(f"{words}: {form(found)} and {form(wanted)}")
        if torch.equal(found, wanted):
            return
        gap = (found.double() - wanted.double()).abs()
        wrong = ~((gap <= within) | (found == wanted) | (found.isnan() & wanted.isnan()))
        if bool(wrong.any()):
            most = float(within.max()) if isinstance(within, Tensor) else within
            allowed = f", where {most:.3g} is allowed" if most else ""
            self.fail(f"{words}: {largest_difference(found, wanted)}{allowed}")


@dataclass(frozen=True)
class Law:
    """A law that is being checked on a part."""

    name: str
    part: str

    @contextmanager
    def at(self, **where: object) -> Generator[Trial]:
        """Check the law in one case. Any exception that escapes from the block is raised as BrokenLaw."""
        trial = Trial(self.name, self.part, ", ".join(f"{name} = {value}" for name, value in where.items()))
        try:
            yield trial
        except BrokenLaw:
            raise
        except Exception as error:
            raise BrokenLaw(
                f"{trial.part} breaks the law '{trial.law}' ({trial.where}): it raised {type(error).__name__}: {error}"
            ) from error


def form(tensor: Tensor) -> str:
    """Format a tensor's dtype and shape, such as `float32[3, 7]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def normal(*shape: int, seed: int) -> Tensor:
    """f64[*shape] of standard normal values, determined by the seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
