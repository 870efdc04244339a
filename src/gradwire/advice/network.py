"""A model of networks of any size: seconds of a collective from a link's latency, its rate and the number of hops.

Collectives are those of gloo, as the ledger counts them; with n ranks
    AllReduce  ring    2 (n - 1) hops
    AllGather  ring    n - 1 hops
    Broadcast  tree    log2 n hops, rounded up
    AllToAll   direct  one hop: all messages are on their way at once
and seconds = hops * latency + traffic / rate, where traffic is the bytes on the busiest rank's link.

A network of islands has fast links inside an island, and one slow link from each island to the others, which its
members share. A ring through all ranks crosses each island's slow link once, and every hop waits for the slowest.
The model has no congestion elsewhere, no stragglers, and no other algorithms, such as NCCL's trees.
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
"""Number of sequential messages, by kind of collective and number of ranks."""


@dataclass(frozen=True)
class Wire:
    """A link: its latency in seconds a message, and its rate in bytes a second in each direction."""

    latency: float
    rate: float

    def seconds(self, hops: float, traffic: float) -> float:
        """Seconds of a collective with so many sequential hops and bytes of traffic."""
        return hops * self.latency + traffic / self.rate


@dataclass(frozen=True)
class Network:
    """A network in which every rank has a link to the others, or, with islands, the ranks of an island share one.

    Args:
        wire: the slow link.
        inside: the links inside an island; None if there are no islands.
        island: number of ranks in an island; its ranks are consecutive.
    """

    wire: Wire
    inside: Wire | None = None
    island: int = 1

    def seconds(self, asked: Asked, size: int) -> float:
        """Seconds of a collective among `size` ranks, or in the groups along its axis."""
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
        """Seconds of a collective in groups that span islands.

        `groups` is the number of groups that share an island's link, `members` the ranks a group has in an island.
        """
        groups = min(axis.stride, self.island)
        members = max(1, self.island // axis.stride)
        if kind == "Broadcast":  # the tree covers the root's island first; then all members of an island send at once
            near = (members - 1).bit_length()
            message = traffic / hops
            return inside.seconds(near, near * message) + self.wire.seconds(
                hops - near, (hops - near) * members * groups * message
            )
        if kind == "AllToAll":
            away = (axis.size - members) / (axis.size - 1)
            return self.wire.seconds(hops, away * members * groups * traffic)
        return self.wire.seconds(hops, groups * traffic)
