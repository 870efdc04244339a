"""The ledger: bytes counted from the tensors that were handed to the network, per kind of ask.

Two figures, because both questions are asked:
  bytes    what the workers bring: the size of the tensors in the asks, in an AllToAll one's own row too. `nbytes(d)`
           of a compressor is asserted equal.
  traffic  what that makes on a worker's own link by the algorithms of gloo, comparable with the kernel's tx_bytes:
             AllReduce  ring all-reduce      2 (n - 1) / n of the tensor
             AllGather  ring all-gather      n - 1 times the tensor
             Broadcast  binomial broadcast   once for every child in the tree; the root has most
             AllToAll   direct messages      (n - 1) / n of the tensor: all rows but one's own
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gradwire.ask import ASKS, Ask

KINDS = tuple(kind.__name__ for kind in ASKS)
"""The names of the asks."""


@dataclass
class Totals:
    """Totals of one kind of ask, over all workers that the ledger watches."""

    calls: int = 0
    bytes: int = 0
    traffic: float = 0.0
    seconds: float = 0.0


@dataclass
class Ledger:
    """Counts for `workers` workers together; what it reports is per worker.

    dense: bytes that averaging without compression would have brought for the same gradients, all workers together; the
    caller counts them. log: the seconds of every record in order, if somebody wants them and puts an empty list here.
    """

    workers: int = 1
    entries: dict[str, Totals] = field(default_factory=lambda: {kind: Totals() for kind in KINDS})
    dense: int = 0
    log: list[float] | None = None

    def record(self, ask: Ask, rank: int | slice, size: int, seconds: float = 0.0) -> None:
        """Count one worker's part of an answered ask, or that of all in a batch; `seconds` it waited for the answer."""
        entry = self.entries[ask.kind]
        entry.calls += 1 if isinstance(rank, int) else size
        entry.bytes += ask.brought(rank)
        entry.traffic += ask.traffic(rank, size)
        entry.seconds += seconds
        if self.log is not None:
            self.log.append(seconds)

    def repeat(self, other: Ledger, times: int) -> None:
        """Count what another ledger holds, so many times; equal to recording it as often, in traffic too."""
        for kind, theirs in other.entries.items():
            entry = self.entries[kind]
            entry.calls += theirs.calls * times
            entry.bytes += theirs.bytes * times
            for _ in range(times if theirs.traffic else 0):
                entry.traffic += theirs.traffic  # a product would round otherwise

    def clear(self) -> None:
        """Count from nothing again."""
        self.dense = 0
        for kind in self.entries:
            self.entries[kind] = Totals()

    @property
    def bytes(self) -> int:
        """Bytes brought per worker so far, rounded where workers differ."""
        return round(sum(entry.bytes for entry in self.entries.values()) / self.workers)

    @property
    def ratio(self) -> float:
        """How many times fewer bytes were brought than dense averages would have; NaN before the first."""
        brought = sum(entry.bytes for entry in self.entries.values())
        return self.dense / brought if brought else math.nan

    @property
    def traffic(self) -> int:
        """Bytes on a worker's link so far, the average over the workers watched."""
        return round(sum(entry.traffic for entry in self.entries.values()) / self.workers)

    @property
    def seconds(self) -> float:
        """Seconds that a worker spent in the network so far, waiting for slower peers included."""
        return sum(entry.seconds for entry in self.entries.values()) / self.workers
