"""Asks among some of the workers: an axis of a grid divides them into groups, and all groups ask at once."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from gradwire.ask.collective import put
from gradwire.ask.plain import Plain


@dataclass(frozen=True)
class Axis:
    """One axis of a grid in which the workers stand: a group is the `size` workers along it, `stride` ranks apart.

    Of 12 workers, `Axis(4)` makes the groups 0-3, 4-7 and 8-11, and `Axis(3, 4)` makes (0, 4, 8), (1, 5, 9) and so on.

    Raises:
        ValueError: a size or a stride below 1.
    """

    size: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1:
            raise ValueError(f"an axis has a size and a stride of at least 1, got {self.size} and {self.stride}")

    def check(self, workers: int) -> None:
        """Refuse a number of workers that does not fill the grid (ValueError)."""
        if workers % (self.size * self.stride):
            raise ValueError(
                f"groups of {self.size} workers, {self.stride} ranks apart, need a multiple of "
                f"{self.size * self.stride} workers, got {workers}"
            )

    def place(self, rank: int) -> int:
        """A worker's rank in its group."""
        return rank // self.stride % self.size

    def number(self, rank: int) -> int:
        """The number of a worker's group."""
        return rank // (self.stride * self.size) * self.stride + rank % self.stride

    def members(self, rank: int) -> list[int]:
        """The ranks of a worker's group, in order."""
        first = rank - self.place(rank) * self.stride
        return [first + place * self.stride for place in range(self.size)]

    def groups(self, workers: int) -> list[list[int]]:
        """The ranks of every group, by its number."""
        firsts = (rank for rank in range(workers) if self.place(rank) == 0)
        return [self.members(rank) for rank in sorted(firsts, key=self.number)]

    def inside(self, other: Axis) -> Axis:
        """This axis, which counts the workers of a group of `other`, as one that counts all workers."""
        return Axis(self.size, self.stride * other.stride)


@dataclass(frozen=True)
class Among:
    """An ask that every group of workers along an axis is answered for itself.

    On a batch the answer has a leading axis of groups, by their number.
    """

    ask: Plain
    axis: Axis

    @property
    def x(self) -> Tensor:
        """What the worker brings."""
        return self.ask.x

    @property
    def in_place(self) -> bool:
        """The ask's."""
        return self.ask.in_place

    @property
    def kind(self) -> str:
        """The ask's."""
        return self.ask.kind

    @property
    def options(self) -> str:
        """The ask's."""
        return self.ask.options

    @property
    def in_rows(self) -> bool:
        """The ask's."""
        return self.ask.in_rows

    @property
    def family(self) -> Hashable:
        """The ask's, along one axis."""
        return self.axis, self.ask.family

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return put(self)

    def bringing(self, x: Tensor) -> Ask:
        """The same ask of another x."""
        return replace(self, ask=replace(self.ask, x=x))

    def check(self, size: int) -> None:
        """Refuse workers that do not fill the grid, and an x that does not fit a group."""
        self.axis.check(size)
        self.ask.check(self.axis.size)

    def brought(self, rank: int | slice) -> int:
        """The ask's, in every group."""
        if isinstance(rank, slice):
            return sum(ask.brought(rank) for ask in self._batches())
        return self.ask.brought(self.axis.place(rank))

    def traffic(self, rank: int | slice, size: int) -> float:
        """The ask's, in every group."""
        if isinstance(rank, slice):
            return sum(ask.traffic(rank, self.axis.size) for ask in self._batches())
        return self.ask.traffic(self.axis.place(rank), self.axis.size)

    def busiest(self, size: int) -> float:
        """The ask's, in a group."""
        return self.ask.busiest(self.axis.size)

    def arriving(self, size: int) -> float:
        """The ask's, in a group."""
        return self.ask.arriving(self.axis.size)

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """The ask's answers, group by group."""
        found: dict[int, Tensor] = {}
        for ranks in self.axis.groups(len(asks)):
            parts = [ask.ask for rank in ranks if isinstance(ask := asks[rank], Among)]
            found |= zip(ranks, parts[0].answers(parts), strict=True)
        return [found[rank] for rank in range(len(asks))]

    def batched(self, size: int) -> Tensor:
        """[groups, ...]: the ask's answer to every group."""
        return torch.stack([ask.batched(self.axis.size) for ask in self._batches()])

    def senders(self, size: int) -> Sequence[int]:
        """The ask's, in the first worker's group."""
        members = self.axis.members(0)
        return [members[place] for place in self.ask.senders(self.axis.size)]

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """The ask's, in a group."""
        return self.ask.alone(self.axis.size, sent)

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """None: a flag must reach all workers, and this message reaches a group."""
        return None

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """Never called: it carries no flag."""
        return answer, False

    def _batches(self) -> list[Plain]:
        """The batch, group by group."""
        return [replace(self.ask, x=self.x[ranks]) for ranks in self.axis.groups(len(self.x))]


Ask: TypeAlias = Plain | Among


def among(ask: Ask, axis: Axis) -> Among:
    """Put an ask of a group's workers as one of all workers, whose groups lie along `axis`."""
    return Among(ask.ask, ask.axis.inside(axis)) if isinstance(ask, Among) else Among(ask, axis)
