"""Local steps: what one exchange of differences takes, by rehearsal, and how many steps a round needs on a link.

A round is H steps in which nothing is sent, and one exchange, none of it hidden:

    | step | step | ... | step | rehearsed computing and wire |

What local steps do to the loss is not predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from gradwire.advice.crew import APART, FEW, MANY, STEPS, TOGETHER
from gradwire.advice.crowd import clock
from gradwire.advice.gradients import Gradients, of_ranks
from gradwire.advice.link import Link
from gradwire.advice.verdict import MARGIN
from gradwire.advice.work import LATE, RATE
from gradwire.ask import AllGather, Talk
from gradwire.doors.attach_local import EXCHANGE, OUTER
from gradwire.engine.anchored import Anchored
from gradwire.engine.units import cut
from gradwire.exchange import Exchange
from gradwire.layout import Turn
from gradwire.outer import Outer
from gradwire.spec import as_outer, parse
from gradwire.transport.rehearsal import Course, rehearse

Named: TypeAlias = Sequence[tuple[str, Tensor]]

LOCAL_CANDIDATES = (EXCHANGE, "mean")
"""Exchanges of differences that are considered: the default of `gradwire.local`, and the dense mean."""

LENGTHS = (1, 2, 4, 10, 30, 100, 300, 1000)
"""Local steps of a round that are considered."""

SHARE = 0.05
"""Of a round, what the wire may take."""

WORDS = 4
"""int64 numbers by which the ranks agree about the end of a round."""


@dataclass(frozen=True)
class LocalRound:
    """One exchange of differences: `computing` and `wire` seconds, `traffic` bytes on the busiest link.

    step: seconds of a step that sends nothing. every: the fewest steps of a round, among `LENGTHS`, that let the wire
    take less than `SHARE` of it; the most considered if there is none. refusal: why nothing is known.
    """

    exchange: str
    step: float
    computing: float
    wire: float
    traffic: float
    refusal: str = ""

    @property
    def every(self) -> int:
        """Local steps of a round."""
        return next((length for length in LENGTHS if self.share(length) < SHARE), LENGTHS[-1])

    def beats(self, seconds: float) -> bool:
        """Whether local steps are predicted to save as much of a step of so many seconds as a candidate must."""
        return not self.refusal and self.seconds(self.every) < MARGIN * seconds

    @property
    def sentence(self) -> str:
        """What local steps would take; how they change the loss is not predicted."""
        return (
            f"local steps are predicted to take {1e3 * self.seconds(self.every):.4g} ms a step: "
            f"gradwire.local(model, optimizer, every={self.every})"
        )

    def share(self, every: int) -> float:
        """The wire's part of a round of so many steps."""
        return self.wire / (every * self.step + self.computing + self.wire)

    def seconds(self, every: int) -> float:
        """Seconds of a step, the exchange shared out among the steps of a round."""
        return self.step + (self.computing + self.wire) / every


def local_rounds(
    named: Named,
    gradients: Sequence[Tensor],
    step: float,
    link: Link,
    unit_bytes: float,
    exchanges: Sequence[str] = LOCAL_CANDIDATES,
) -> list[LocalRound]:
    """Rehearse exchanges of differences. No network.

    Args:
        named: trainable parameters, or this rank's shards of them, in the order in which units are cut; not touched.
        gradients: one for each; differences are made of them.
        step: seconds of a step in which nothing is sent.
        link: what collectives cost.
        unit_bytes: bytes of parameters that are exchanged together.
        exchanges: specs.
    """
    moves = of_ranks([param for _, param in named], [gradients])
    return [_round(spec, named, moves, step, link, unit_bytes) for spec in exchanges]


def _round(
    spec: str,
    named: Named,
    moves: Gradients,
    step: float,
    link: Link,
    unit_bytes: float,
) -> LocalRound:
    try:
        courses = differences(parse(spec), as_outer(OUTER, "local"), named, moves, link.size, unit_bytes)
    except (ValueError, RuntimeError, IndexError, TypeError) as refusal:
        return LocalRound(spec, step, 0.0, 0.0, 0.0, str(refusal).splitlines()[0])
    agreement = AllGather(torch.zeros(8 * WORDS, dtype=torch.uint8)).busiest(link.size)
    asked = [("AllGather", agreement), *((ask.kind, ask.traffic) for course in courses for ask in course.asks)]
    parts = [link.part(kind, traffic) for kind, traffic in asked]
    return LocalRound(
        spec,
        step,
        computing=sum(course.seconds for course in courses),
        wire=sum(part.cpu + part.wait for part in parts),
        traffic=sum(traffic for _, traffic in asked),
    )


def differences(
    exchange: Exchange,
    outer: Outer,
    named: Named,
    moves: Gradients,
    size: int,
    unit_bytes: float,
) -> list[Course]:
    """The median course, by seconds of computing, of every unit's exchange; each worker moves along its gradient.

    Raises:
        ValueError: it cannot be rehearsed, or does not fit the model.
    """
    found: list[Course] = []
    workers = size if size <= (TOGETHER if moves.alike else APART) else 1
    asks_others = workers < size and not moves.alike
    for part in cut(named, unit_bytes):
        units = [_anchored(part, exchange, outer) for _ in range(workers + asks_others)]
        scratch = [torch.empty_like(unit.anchor) for unit in units]
        spare = (units.pop(), scratch.pop()) if asks_others else None
        courses: list[Course] = []

        def begin(unit: Anchored, x: Tensor, rank: int, step: int, part: Named = part) -> Talk[None]:
            _move(part, unit, moves, rank)
            return _exchange(unit, exchange, outer, Turn(rank, size, LATE + step, unit.layout, 0), x)

        def other(rank: int, step: int, spare: tuple[Anchored, Tensor]) -> Talk[None]:
            spare[0].catch_up("drop", moved=True)
            return begin(*spare, rank, step)

        for step in range(FEW if asks_others or size > MANY else STEPS):
            talks = [begin(unit, x, rank, step) for rank, (unit, x) in enumerate(zip(units, scratch, strict=True))]
            others = None if spare is None else partial(other, step=step, spare=spare)
            courses.append(rehearse(talks, size, clock(part[0][1].device), others=others)[1])
        found.append(_median(courses[1:], lambda course: course.seconds))
    return found


def _move(part: Named, unit: Anchored, moves: Gradients, rank: int) -> None:
    """Move a unit's tensors as a worker's local steps do."""
    steps = {id(tensor): torch.empty_like(tensor) for _, tensor in part}
    moves.write_(steps, rank)
    for (_, tensor), own in zip(part, unit.tensors, strict=True):
        own.sub_(steps[id(tensor)], alpha=RATE)


def _anchored(part: Named, exchange: Exchange, outer: Outer) -> Anchored:
    """A worker's unit, on copies of the tensors."""
    copies = [(name, tensor.detach().clone()) for name, tensor in part]
    return Anchored(copies, exchange, outer, part[0][1].device)


async def _exchange(unit: Anchored, exchange: Exchange, outer: Outer, turn: Turn, scratch: Tensor) -> None:
    """What a round's end does to a unit."""
    unit.finite()
    await unit.average(exchange, outer, turn, scratch)
    unit.catch_up("drop", moved=True)


def _median(courses: Iterable[Course], key: Callable[[Course], float]) -> Course:
    ordered = sorted(courses, key=key)
    return ordered[len(ordered) // 2]
