"""Bundles: units that are exchanged side by side, while the next bundle may already compute.

A collective costs a latency, however little it sends. So the exchanges of small neighbouring units run together, and
their messages are joined. While a bundle waits for the network, the next one, if it is complete, computes up to its
first message: it accumulates, selects and encodes. A bundle's collectives still end before those of the next begin, in
an order that does not depend on which gradients came first on which rank.
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
"""Bytes of a bundle at most. Uncompressed they take 20 ms at 100 Mbit/s; latencies are 1 to 100 ms."""


class VectorSpec(NamedTuple):
    """Layout, dtype and device of a flat vector f[d]."""

    layout: Layout
    dtype: torch.dtype
    device: torch.device


class HasVector(Protocol):
    """An object that is exchanged as one flat vector."""

    @property
    def vector(self) -> VectorSpec:
        """Layout, dtype and device of the vector."""
        ...


U = TypeVar("U", bound=HasVector)

_Kind: TypeAlias = tuple[int, torch.dtype, torch.device]
"""(parity, dtype, device): a workspace has one tensor for the vectors of all bundles of one parity."""


def bundled(units: Sequence[U]) -> list[list[U]]:
    """Group units into bundles in order: neighbours of up to `SMALL` bytes; a larger unit is a bundle alone."""
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
    """One scratch vector f[d] per unit, in memory that bundles share.

    Only two neighbouring bundles are ever under way, so even and odd bundles have separate memory.

    Args:
        parts: sequences of bundles; the bundles of one sequence run one after the other.
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
        """Return the vector of the unit with this layout, uninitialised."""
        kind, start, end = self._spans[layout]
        return self._memory[kind][start:end]

    def another(self) -> Workspace:
        """Return a workspace of the same shape in memory of its own."""
        made = Workspace()
        made._spans, made._memory = self._spans, {kind: memory.clone() for kind, memory in self._memory.items()}
        return made


def run_in_order(process: Process, talks: Sequence[Talk[T]]) -> Iterator[T]:
    """Run coroutines one after the other; while one waits for its first answer, the next computes up to its first ask.

    Raises:
        Exception: whatever a coroutine or a collective raises; then all coroutines are closed.
    """
    ahead = [Ahead(talk) for talk in talks]
    try:
        for talk, following in zip_longest(ahead, ahead[1:]):
            yield process.run(talk, meanwhile=None if following is None else following.begin)
    finally:
        for talk in ahead:
            talk.close()
