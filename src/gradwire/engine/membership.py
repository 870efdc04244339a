"""Membership: the former groups and the progress of a new group's ranks, and whose state is the newest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from gradwire.ask import AllGather
from gradwire.engine.session import Session
from gradwire.exchange.change import Change
from gradwire.layout import Layout

log = logging.getLogger("gradwire")

_SEED_BYTES = 32


@dataclass(frozen=True)
class Membership:
    """What the ranks of a new session know about the sessions they were in before.

    Args:
        session: the new session.
        before: number of ranks of the source's former session.
        stayed: number of those ranks that are in the new session.
        source: the rank with the furthest progress; the lowest such rank.
        progress: the source's progress.
        seed: the source's seed.
        joined: whether this rank was not in the source's former session.
        same: whether the new session has exactly the ranks of that one, with equal progress; nothing changes then.
    """

    session: Session
    before: int
    stayed: int
    source: int
    progress: tuple[int, ...]
    seed: int
    joined: bool
    same: bool

    def change(self, layout: Layout) -> Change:
        """Describe the change of workers to the exchange of one unit."""
        size, device = self.session.process.size, self.session.device
        return Change(layout, self.before, self.stayed, size, self.source, self.joined, device)


def gather_membership(session: Session, before: Session, progress: Sequence[int], seed: int) -> Membership:
    """Gather all ranks' progress, seeds and former sessions. Every rank calls it; `before` is its former session."""
    words = torch.tensor([before.token, before.process.size, *progress], device=session.device)
    mine = torch.frombuffer(bytearray(seed.to_bytes(_SEED_BYTES, "little", signed=True)), dtype=torch.uint8)
    gathered = session.process.ask(AllGather(torch.cat([words.view(torch.uint8), mine.to(session.device)])))
    numbers, seeds = gathered[:, :-_SEED_BYTES].contiguous().view(torch.int64), gathered[:, -_SEED_BYTES:]
    rows = cast(list[list[int]], numbers.tolist())
    source = max(range(len(rows)), key=lambda rank: rows[rank][2:])
    token, size, *furthest = rows[source]
    stayed = [row for row in rows if row[0] == token]
    if len(stayed) < size:
        log.warning("gradwire: %d of %d workers are gone, and their residuals are lost", size - len(stayed), size)
    return Membership(
        session,
        before=size,
        stayed=len(stayed),
        source=source,
        progress=tuple(furthest),
        seed=int.from_bytes(bytes(cast(list[int], seeds[source].tolist())), "little", signed=True),
        joined=before.token != token,
        same=len(stayed) == len(rows) == size and all(row[2:] == furthest for row in rows),
    )
