"""Bundles: units that are exchanged side by side, while the next bundle may already begin.

A collective costs a latency, however little it sends. So the exchanges of small neighbouring units run together, and
their messages travel as one. And while a bundle waits for the network, the next one, if it is complete, computes what
needs no answer: it accumulates, selects and encodes. The collectives of a bundle still end before those of the next
begin, in an order that does not depend on which gradients came first on which rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from gradwire.ask import Talk
from gradwire.layout import Layout
from gradwire.transport.ahead import Ahead
from gradwire.transport.process import Process

T = TypeVar("T")

SMALL = 1 << 18
"""Bytes up to which units are exchanged together. Uncompressed they take 20 ms at 100 Mbit/s; a latency is 1 to 100."""


class VectorSpec(NamedTuple):
    """What a flat vector is like: the layout of its f[d], dtype and device."""

    layout: Layout
    dtype: torch.dtype
    device: torch.device


class HasVector(Protocol):
    """Whatever is exchanged as one flat vector."""

    @property
    def vector(self) -> VectorSpec:
        """What the vector is like."""
        ...


U = TypeVar("U", bound=HasVector)

_Kind: TypeAlias = tuple[int, torch.dtype, torch.device]
"""What lies in one tensor: vectors of bundles with even or odd numbers, of one dtype, on one device."""


def bundled(units: Sequence[U]) -> list[list[U]]:
    """Deal units out to bundles in their order: neighbours together up to `SMALL` bytes, any larger one alone."""
    bundles: list[list[U]] = []
    left = 0
    for unit in units:
        nbytes = unit.vector.layout.d * unit.vector.dtype.itemsize
        if not bundles or nbytes > left:
            bundles.append([])
            left = SMALL
        bundles[-1].append(unit)
        left -= nbytes
    return bundles


class Workspace:
    """One vector f[d] for every unit, in memory that units use in turns: two bundles under way share none.

    Args:
        parts: bundles that may follow each other, part by part.
    """

    def __init__(self, *parts: Sequence[Sequence[HasVector]]) -> None:
        self._spans: dict[Layout, tuple[_Kind, int, int]] = {}
        ends: dict[_Kind, int] = {}
        for number, bundle in ((number, bundle) for bundles in parts for number, bundle in enumerate(bundles)):
            filled: dict[_Kind, int] = {}
            for layout, dtype, device in (unit.vector for unit in bundle):
                kind = (number % 2, dtype, device)
                start, filled[kind] = filled.get(kind, 0), filled.get(kind, 0) + layout.d
                self._spans[layout] = (kind, start, filled[kind])
            ends |= {kind: max(end, ends.get(kind, 0)) for kind, end in filled.items()}
        self._memory = {kind: torch.empty(end, dtype=kind[1], device=kind[2]) for kind, end in ends.items()}

    def of(self, layout: Layout) -> Tensor:
        """The vector of the unit with this layout, which holds nothing in particular."""
        kind, start, end = self._spans[layout]
        return self._memory[kind][start:end]

    def another(self) -> Workspace:
        """The same in other memory."""
        made = Workspace()
        made._spans, made._memory = self._spans, {kind: memory.clone() for kind, memory in self._memory.items()}
        return made


def run_in_order(process: Process, talks: Sequence[Talk[T]]) -> Iterator[T]:
    """Run talks to their ends, one after the other; while one waits for its first answer, the next begins.

    Raises:
        Exception: whatever a talk or a collective raises; then no talk goes on.
    """
    ahead = [Ahead(talk) for talk in talks]
    try:
        for talk, following in zip_longest(ahead, ahead[1:]):
            yield process.run(talk, meanwhile=None if following is None else following.begin)
    finally:
        for talk in ahead:
            talk.close()
