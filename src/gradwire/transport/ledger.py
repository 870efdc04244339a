"""The ledger: bytes counted from the tensors that were handed to the network, per kind of ask.

It keeps two figures:
  bytes    the size of the tensors in the asks; an AllToAll's includes the worker's own row. Tests assert that it equals
           a compressor's `nbytes(d)`.
  traffic  the bytes sent on a worker's link by gloo's algorithms, comparable with the kernel's tx_bytes:
             AllReduce  ring all-reduce      2 (n - 1) / n of the tensor
             AllGather  ring all-gather      n - 1 times the tensor
             Broadcast  binomial broadcast   the tensor once per child in the tree; the root has most children
             AllToAll   direct messages      (n - 1) / n of the tensor: all rows but the worker's own
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gradwire.ask import ASKS, Ask

KINDS = tuple(kind.__name__ for kind in ASKS)
"""The names of the asks."""


@dataclass
class Totals:
    """Totals of one kind of ask, over all workers that the ledger counts."""

    calls: int = 0
    bytes: int = 0
    traffic: float = 0.0
    seconds: float = 0.0


@dataclass
class Ledger:
    """Counts calls, bytes, traffic and seconds. Entries are totals of `workers` workers; the properties are per worker.

    Attributes:
        workers: number of workers that are counted here.
        entries: totals by kind of ask.
        dense: bytes that averaging the same gradients without compression would take, all workers together; the caller
            adds to it.
        log: the seconds of every record in order, if a caller sets it to a list.
    """

    workers: int = 1
    entries: dict[str, Totals] = field(default_factory=lambda: {kind: Totals() for kind in KINDS})
    dense: int = 0
    log: list[float] | None = None

    def record(self, ask: Ask, rank: int | slice, size: int, seconds: float = 0.0) -> None:
        """Count an answered ask of one worker, or of a batch of all; the worker waited `seconds` for the answer."""
        entry = self.entries[ask.kind]
        entry.calls += 1 if isinstance(rank, int) else size
        entry.bytes += ask.brought(rank)
        entry.traffic += ask.traffic(rank, size)
        entry.seconds += seconds
        if self.log is not None:
            self.log.append(seconds)

    def repeat(self, other: Ledger, times: int) -> None:
        """Add another ledger's counts `times` times, with the same result as recording its asks as often."""
        for kind, theirs in other.entries.items():
            entry = self.entries[kind]
            entry.calls += theirs.calls * times
            entry.bytes += theirs.bytes * times
            for _ in range(times if theirs.traffic else 0):
                entry.traffic += theirs.traffic  # a product would be rounded differently

    def clear(self) -> None:
        """Set all counts to 0."""
        self.dense = 0
        for kind in self.entries:
            self.entries[kind] = Totals()

    @property
    def bytes(self) -> int:
        """Bytes handed to the network per worker so far, the rounded mean over the workers."""
        return round(sum(entry.bytes for entry in self.entries.values()) / self.workers)

    @property
    def ratio(self) -> float:
        """How many times fewer bytes were sent than dense averages would have taken; NaN before the first."""
        brought = sum(entry.bytes for entry in self.entries.values())
        return self.dense / brought if brought else math.nan

    @property
    def traffic(self) -> int:
        """Bytes on a worker's link so far, the rounded mean over the workers."""
        return round(sum(entry.traffic for entry in self.entries.values()) / self.workers)

    @property
    def seconds(self) -> float:
        """Seconds per worker in collectives so far, including waiting for slower peers."""
        return sum(entry.seconds for entry in self.entries.values()) / self.workers
