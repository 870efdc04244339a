"""Rounds of local steps: workers exchange their differences to an anchor, and the mean moves the anchor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from gradwire.engine.anchored import ALPHA, CatchUp
from gradwire.exchange import Exchange
from gradwire.lab.averager import InProcess
from gradwire.lab.training.local import LocalSteps
from gradwire.layout import Layout
from gradwire.outer import Outer
from gradwire.spec import as_exchange, as_outer
from gradwire.vector import Sent


class OuterRounds:
    """Rounds of n workers over vectors of one layout, with the states of exchange and outer step.

        rounds = OuterRounds("ef(topk(density=0.016))", "sgd(lr=1.0, mean='senders')", layout, workers=4)
        rounds.play(anchor, thetas)  # anchor f[d] moves in place; thetas f[n, d] are only read

    By default workers run in lockstep, with the bits of a network.
    """

    def __init__(
        self,
        exchange: Exchange | str,
        outer: Outer | str,
        layout: Layout,
        workers: int,
        seed: int = 0,
        *,
        batched: bool = False,
    ) -> None:
        averages, self.outer = as_exchange(exchange, "a round"), as_outer(outer, "a round")
        self.averager = InProcess(averages, layout, workers, seed, batched=batched)
        self.state, self.workers, self.played = self.outer.init(layout), workers, 0

    def send(self, anchor: Tensor, thetas: Tensor) -> Sent:
        """Exchange the differences anchor - thetas; the mean is valid until the next round."""
        sent = self.averager.send(anchor - thetas, self.played, anchor)
        self.played += 1
        return sent

    def move_(self, anchor: Tensor, sent: Sent) -> None:
        """Move the anchor f[d] by the mean, in place."""
        self.outer(anchor, sent.mean, self.state, self.workers)

    def play(self, anchor: Tensor, thetas: Tensor) -> Sent:
        """Play a whole round. If a difference is not finite (`Sent.finite`), the anchor does not move."""
        sent = self.send(anchor, thetas)
        if sent.finite:
            self.move_(anchor, sent)
        return sent


@dataclass
class Fragment:
    """The coordinates [first, last) with their rounds.

    pending: an exchange whose mean has not been received yet: (step at which it is due, result, thetas when sent).
    """

    first: int
    last: int
    rounds: OuterRounds
    pending: tuple[int, Sent, Tensor] | None = None

    def cut(self, x: Tensor) -> Tensor:
        """View this part of f[..., d]."""
        return x[..., self.first : self.last]


class Timetable:
    """The exchanges of all fragments by step, and the anchor f[d], which starts at `start`."""

    def __init__(
        self, local: LocalSteps, exchange: Exchange, layout: Layout, workers: int, steps: int, seed: int, start: Tensor
    ) -> None:
        self.local, self.steps, self.anchor = local, steps, start.clone()
        self.fragments = [
            Fragment(first, first + part.d, OuterRounds(exchange, local.outer, part, workers, seed))
            for first, part in _parts(layout, local.fragments)
        ]
        self.event, self.due = 0, local.rounds.gap(0, local.fragments, 0)

    def after(self, step: int, thetas: Tensor) -> Iterator[Sent]:
        """Make the exchanges that are due after `step` steps and yield their results; the last step ends every round.

        thetas, f[n, d]: the workers' parameters, which catch up with the anchor in place.
        """
        ends, next_one = step == self.steps, self.fragments[self.event % len(self.fragments)]
        for fragment in self.fragments:
            if fragment.pending and (ends or fragment.pending[0] == step):
                self._receive(fragment, thetas)
            if ends or (step == self.due and fragment is next_one):
                if fragment.pending:  # while rounds grow, a round may be shorter than the delay
                    self._receive(fragment, thetas)
                rows = fragment.cut(thetas)
                sent = fragment.rounds.send(fragment.cut(self.anchor), rows)
                yield sent
                fragment.pending = (step + self.local.delay, sent, rows.clone() if self.local.delay else rows)
                if ends or not self.local.delay:
                    self._receive(fragment, thetas, drop=True)
        if step == self.due:
            self.event += 1
            self.due += self.local.rounds.gap(self.event, len(self.fragments), step)

    def _receive(self, fragment: Fragment, thetas: Tensor, drop: bool = False) -> None:
        """Move the anchor by a fragment's pending mean, and let the workers catch up with it."""
        if fragment.pending is None:
            return
        _, sent, left = fragment.pending
        anchor, fragment.pending = fragment.cut(self.anchor), None
        fragment.rounds.move_(anchor, sent)
        catch_up_(fragment.cut(thetas), anchor, left, "drop" if drop else self.local.catch_up)


def catch_up_(thetas: Tensor, anchor: Tensor, left: Tensor, how: CatchUp) -> None:
    """Bring workers' thetas f[n, d] to the moved anchor f[d] in place; `left` f[n, d] are their values when sent."""
    if how == "drop":
        thetas.copy_(anchor.expand_as(thetas))
    elif how == "mix":
        thetas.mul_(ALPHA).add_(anchor, alpha=1 - ALPHA)
    else:
        thetas.add_(anchor - left)


def _parts(layout: Layout, count: int) -> Iterator[tuple[int, Layout]]:
    """Split a layout between tensors into parts of about equal size; yield each part's first coordinate and layout."""
    ends = list(accumulate(layout.sizes))
    places: list[list[int]] = [[] for _ in range(count)]
    for place, end in enumerate(ends):
        places[min(count - 1, (end - 1) * count // max(layout.d, 1))].append(place)
    if not all(places):
        raise ValueError(f"a model of {len(ends)} tensors does not fall into {count} fragments of about equal size")
    for part in places:
        first = ends[part[0]] - layout.sizes[part[0]]
        yield first, Layout([layout.names[place] for place in part], [layout.shapes[place] for place in part])
