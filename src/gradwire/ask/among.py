"""Collectives within groups of workers: an axis of a grid divides the workers, and all groups ask at once."""

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
    """One axis of a grid of workers: a group is `size` workers along it, `stride` ranks apart.

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
        """Return a worker's rank within its group."""
        return rank // self.stride % self.size

    def number(self, rank: int) -> int:
        """Return the number of a worker's group."""
        return rank // (self.stride * self.size) * self.stride + rank % self.stride

    def members(self, rank: int) -> list[int]:
        """Return the ranks of a worker's group, in order."""
        first = rank - self.place(rank) * self.stride
        return [first + place * self.stride for place in range(self.size)]

    def groups(self, workers: int) -> list[list[int]]:
        """Return the ranks of every group, in the order of group numbers."""
        firsts = (rank for rank in range(workers) if self.place(rank) == 0)
        return [self.members(rank) for rank in sorted(firsts, key=self.number)]

    def inside(self, other: Axis) -> Axis:
        """Convert this axis, over the workers of one group of `other`, to an axis over all workers."""
        return Axis(self.size, self.stride * other.stride)


@dataclass(frozen=True)
class Among:
    """A collective within every group of workers along an axis.

    In batched mode the answer has a leading axis of groups, in the order of their numbers.

    Args:
        ask: the collective.
        axis: divides the workers into groups.
    """

    ask: Plain
    axis: Axis

    @property
    def x(self) -> Tensor:
        """The tensor that the worker sends."""
        return self.ask.x

    @property
    def in_place(self) -> bool:
        """That of the inner ask."""
        return self.ask.in_place

    @property
    def kind(self) -> str:
        """That of the inner ask."""
        return self.ask.kind

    @property
    def options(self) -> str:
        """Those of the inner ask."""
        return self.ask.options

    @property
    def in_rows(self) -> bool:
        """That of the inner ask."""
        return self.ask.in_rows

    @property
    def family(self) -> Hashable:
        """The axis and the inner ask's family."""
        return self.axis, self.ask.family

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return put(self)

    def bringing(self, x: Tensor) -> Ask:
        """Return the same ask with another x."""
        return replace(self, ask=replace(self.ask, x=x))

    def check(self, size: int) -> None:
        """Refuse a number of workers that does not fill the grid, and an x that does not fit a group (ValueError)."""
        self.axis.check(size)
        self.ask.check(self.axis.size)

    def brought(self, rank: int | slice) -> int:
        """Return the bytes that a rank sends in its group, or that all ranks of a batch send."""
        if isinstance(rank, slice):
            return sum(ask.brought(rank) for ask in self._batches())
        return self.ask.brought(self.axis.place(rank))

    def traffic(self, rank: int | slice, size: int) -> float:
        """Return the bytes on a rank's link for its group's collective, or on all links of a batch."""
        if isinstance(rank, slice):
            return sum(ask.traffic(rank, self.axis.size) for ask in self._batches())
        return self.ask.traffic(self.axis.place(rank), self.axis.size)

    def busiest(self, size: int) -> float:
        """Return the bytes on the busiest link of a group."""
        return self.ask.busiest(self.axis.size)

    def arriving(self, size: int) -> float:
        """Return the bytes that arrive at a rank from its group."""
        return self.ask.arriving(self.axis.size)

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """Answer all workers, group by group; the answers are in the order of ranks."""
        found: dict[int, Tensor] = {}
        for ranks in self.axis.groups(len(asks)):
            parts = [ask.ask for rank in ranks if isinstance(ask := asks[rank], Among)]
            found |= zip(ranks, parts[0].answers(parts), strict=True)
        return [found[rank] for rank in range(len(asks))]

    def batched(self, size: int) -> Tensor:
        """Return [groups, ...]: every group's answer."""
        return torch.stack([ask.batched(self.axis.size) for ask in self._batches()])

    def senders(self, size: int) -> Sequence[int]:
        """Return the senders in the first worker's group, as ranks of all workers."""
        members = self.axis.members(0)
        return [members[place] for place in self.ask.senders(self.axis.size)]

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """Answer the first worker as a member of its group."""
        return self.ask.alone(self.axis.size, sent)

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Return None: a flag must reach all workers, and this message reaches one group only."""
        return None

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """Return the answer without a flag; never called, because `carrying` returns None."""
        return answer, False

    def _batches(self) -> list[Plain]:
        """Return the batched ask of every group."""
        return [replace(self.ask, x=self.x[ranks]) for ranks in self.axis.groups(len(self.x))]


Ask: TypeAlias = Plain | Among


def among(ask: Ask, axis: Axis) -> Among:
    """Convert an ask of the workers of one group along `axis` to an ask of all workers."""
    return Among(ask.ask, ask.axis.inside(axis)) if isinstance(ask, Among) else Among(ask, axis)
