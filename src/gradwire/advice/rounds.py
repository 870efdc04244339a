"""Local steps: the cost of one exchange of differences, by rehearsal, and how many steps a round needs on a link.

A round is H steps that send nothing, followed by one exchange that overlaps with nothing:

    | step | step | ... | step | rehearsed computing and wire |

The effect of local steps on the loss is not predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from gradwire.advice.crew import ALIKE_LIMIT, FEW, MANY, STEPS, UNLIKE_LIMIT
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
"""The exchanges of differences to consider: the default of `gradwire.local`, and the dense mean."""

LENGTHS = (1, 2, 4, 10, 30, 100, 300, 1000)
"""The numbers of local steps a round to consider."""

MAX_WIRE = 0.05
"""The largest fraction of a round that the wire may take."""

WORDS = 4
"""Number of int64 values that the ranks gather to agree on the end of a round."""


@dataclass(frozen=True)
class LocalRound:
    """The predicted cost of local steps with one exchange of differences a round.

    step: seconds of a step that sends nothing. computing, wire: seconds of the exchange's work and of its collectives.
    traffic: bytes on the busiest rank's link. refusal: why it could not be rehearsed, or "".
    """

    exchange: str
    step: float
    computing: float
    wire: float
    traffic: float
    refusal: str = ""

    @property
    def every(self) -> int:
        """Steps of a round: the fewest among `LENGTHS` for which the wire takes less than `MAX_WIRE`, else the most."""
        return next((length for length in LENGTHS if self.wire_fraction(length) < MAX_WIRE), LENGTHS[-1])

    def beats(self, seconds: float) -> bool:
        """Whether local steps take less than `MARGIN` of a step of so many seconds, as a candidate must."""
        return not self.refusal and self.seconds(self.every) < MARGIN * seconds

    @property
    def sentence(self) -> str:
        """The predicted time of a step, and the call that enables local steps; the loss is not predicted."""
        return (
            f"local steps are predicted to take {1e3 * self.seconds(self.every):.4g} ms a step: "
            f"gradwire.local(model, optimizer, every={self.every})"
        )

    def wire_fraction(self, every: int) -> float:
        """The fraction of a round of `every` steps that the wire takes."""
        return self.wire / (every * self.step + self.computing + self.wire)

    def seconds(self, every: int) -> float:
        """Seconds of a step, with the exchange divided by the `every` steps of a round."""
        return self.step + (self.computing + self.wire) / every


def local_rounds(
    named: Named,
    gradients: Sequence[Tensor],
    step: float,
    link: Link,
    unit_bytes: float,
    exchanges: Sequence[str] = LOCAL_CANDIDATES,
) -> list[LocalRound]:
    """Rehearse exchanges of differences without a network.

    Args:
        named: trainable parameters, or this rank's shards of them, in the order in which units are cut; only read.
        gradients: one for each of them, along which the rehearsed parameters move.
        step: seconds of a step that sends nothing.
        link: the cost of collectives.
        unit_bytes: bytes of parameters that are exchanged together.
        exchanges: specs of the exchanges.
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
    """Rehearse every unit's exchange of differences; return its course with the median seconds of computing.

    Each worker's parameters move along its own gradient.

    Raises:
        ValueError: the exchange cannot be rehearsed, or does not fit the model.
    """
    found: list[Course] = []
    workers = size if size <= (ALIKE_LIMIT if moves.alike else UNLIKE_LIMIT) else 1
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
    """Move a unit's tensors by one step of gradient descent, as a worker's local steps would."""
    steps = {id(tensor): torch.empty_like(tensor) for _, tensor in part}
    moves.write_(steps, rank)
    for (_, tensor), own in zip(part, unit.tensors, strict=True):
        own.sub_(steps[id(tensor)], alpha=RATE)


def _anchored(part: Named, exchange: Exchange, outer: Outer) -> Anchored:
    """Make a worker's unit on copies of the tensors."""
    copies = [(name, tensor.detach().clone()) for name, tensor in part]
    return Anchored(copies, exchange, outer, part[0][1].device)


async def _exchange(unit: Anchored, exchange: Exchange, outer: Outer, turn: Turn, scratch: Tensor) -> None:
    """Do to a unit what the end of a round does: check that it is finite, exchange, and reset to the anchor."""
    unit.finite()
    await unit.average(exchange, outer, turn, scratch)
    unit.catch_up("drop", moved=True)


def _median(courses: Iterable[Course], key: Callable[[Course], float]) -> Course:
    ordered = sorted(courses, key=key)
    return ordered[len(ordered) // 2]
