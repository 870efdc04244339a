"""One trial of a law: where it is tried, and the sentence with which it fails."""

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
"""Sizes that provoke: a tensor larger than d / n, an empty one, a scalar."""


@dataclass(frozen=True)
class Trial:
    """A law on a part at one place: `where` is what a reader needs to try it again, such as "d = 7, seed = 3"."""

    law: str
    part: str
    where: str

    def fail(self, words: str) -> NoReturn:
        """Raise BrokenLaw with the law, the part, the place and these words."""
        raise BrokenLaw(f"{self.part} breaks the law '{self.law}' ({self.where}): {words}")

    def require(self, holds: bool, words: str) -> None:
        """Fail unless it holds."""
        if not holds:
            self.fail(words)

    def same(self, found: Tensor, wanted: Tensor, words: str) -> None:
        """Fail unless two tensors have one dtype, one shape and equal values; NaN equals NaN."""
        self.close(found, wanted, 0.0, words)

    def close(self, found: Tensor, wanted: Tensor, within: float | Tensor, words: str) -> None:
        """Fail unless two tensors have one dtype, one shape, and values that differ by so little at most.

        What is allowed may differ from value to value: f[..., d].
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
    """A law that is being tried on a part."""

    name: str
    part: str

    @contextmanager
    def at(self, **where: object) -> Generator[Trial]:
        """Try it at one place. What the part raises there, unless the law expects it, is a failure of the law."""
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
    """Describe dtype and shape: `float32[3, 7]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def normal(*shape: int, seed: int) -> Tensor:
    """f64[*shape] of normal values, the same for a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
