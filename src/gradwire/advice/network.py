"""A network of any size: seconds of a collective by a link's latency and rate, and by how often a message must hop.

Collectives are those of gloo, as the ledger counts them: of n ranks
    AllReduce  ring    2 (n - 1) hops
    AllGather  ring    n - 1 hops
    Broadcast  tree    log2 n hops, rounded up
    AllToAll   direct  one hop: all messages are on their way at once
and seconds = hops * latency + traffic / rate, traffic being the bytes on the busiest rank's link.

A network of islands has fast links inside an island, and one slow link from each island to the others, which its
members share. Of a ring that goes around the world, one edge an island lies on that link, and every hop waits for the
slowest.
Nothing is known of congestion elsewhere, of stragglers, or of collectives that are cut otherwise, as NCCL's trees are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gradwire.ask import Axis
from gradwire.transport.rehearsal import Asked, Course

HOPS: Mapping[str, Callable[[int], int]] = {
    "AllReduce": lambda n: 2 * (n - 1),
    "AllGather": lambda n: n - 1,
    "Broadcast": lambda n: (n - 1).bit_length(),
    "AllToAll": lambda n: min(1, n - 1),
}
"""Messages that follow one another, by kind and number of ranks."""


@dataclass(frozen=True)
class Wire:
    """A link: seconds a message, and bytes a second in either direction."""

    latency: float
    rate: float

    def seconds(self, hops: float, traffic: float) -> float:
        """A collective that is known by nothing else."""
        return hops * self.latency + traffic / self.rate


@dataclass(frozen=True)
class Network:
    """Every rank's link to the others; or, with islands, every island's, whose members share it.

    Args:
        wire: the slow link.
        inside: the links inside an island; None where there are no islands.
        island: ranks of an island, neighbours by number.
    """

    wire: Wire
    inside: Wire | None = None
    island: int = 1

    def seconds(self, asked: Asked, size: int) -> float:
        """Seconds of a collective among `size` ranks, or in the groups that it names."""
        axis = asked.axis or Axis(size)
        if axis.size < 2:
            return 0.0
        hops = HOPS[asked.kind](axis.size)
        if self.inside is None or self.island < 2:
            return self.wire.seconds(hops, asked.traffic)
        if axis.size * axis.stride <= self.island:
            return self.inside.seconds(hops, asked.traffic)
        return self._across(asked.kind, asked.traffic, axis, hops, self.inside)

    def course(self, course: Course, size: int) -> float:
        """Seconds of all collectives of a course."""
        return sum(self.seconds(asked, size) for asked in course.asks)

    def _across(self, kind: str, traffic: float, axis: Axis, hops: int, inside: Wire) -> float:
        """Groups that reach over several islands: `members` of a group in each, and `groups` that share its link."""
        groups = min(axis.stride, self.island)
        members = max(1, self.island // axis.stride)
        if kind == "Broadcast":  # near places hear of it first, and then all members of an island send at once
            near = (members - 1).bit_length()
            message = traffic / hops
            return inside.seconds(near, near * message) + self.wire.seconds(
                hops - near, (hops - near) * members * groups * message
            )
        if kind == "AllToAll":
            away = (axis.size - members) / (axis.size - 1)
            return self.wire.seconds(hops, away * members * groups * traffic)
        return self.wire.seconds(hops, groups * traffic)
