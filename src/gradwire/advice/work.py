"""What a method brings to the network's lane of a step: errands, found by rehearsal on this machine.

torch's own ways reduce DDP's buckets; gradwire's exchanges work on units, which begin when the buckets that hold them
are ready.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gradwire.advice.crew import STEPS, Crew
from gradwire.advice.crowd import clock
from gradwire.advice.doors import Exchanged
from gradwire.advice.gradients import Gradients, of_ranks
from gradwire.advice.link import HALF, Link
from gradwire.advice.pace import Pace, buckets, trained
from gradwire.advice.timeline import Job, Part
from gradwire.ask import AllReduce, Talk
from gradwire.engine import Unit, make_units
from gradwire.engine.units import cut
from gradwire.exchange import Exchange
from gradwire.layout import Turn
from gradwire.memory.guard import Guard
from gradwire.transport.rehearsal import Asked, Course, rehearse
from gradwire.vector import Sent

LATE = 2_882_880
"""The step at which rehearsals begin: late, when what warms up has done so, and a multiple of most numbers."""

RATE = 0.1
"""The learning rate, for memories that want to be told one."""


@dataclass(frozen=True)
class Errand:
    """Parameters that must be ready, by DDP's numbers, for a unit's exchange, and the courses of rehearsed steps."""

    parameters: tuple[int, ...]
    courses: tuple[Course, ...]

    def job(self, step: int, pace: Pace, link: Link) -> Job:
        """What one of the steps takes on a link."""
        course = self.courses[step % len(self.courses)]
        parts = [
            part for ask in course.asks for part in (Part(ask.seconds, 0.0), link.part(ask.kind, ask.traffic, ask.axis))
        ]
        return Job(pace.when(self.parameters), (*parts, Part(course.rest, 0.0)))

    @property
    def traffic(self) -> float:
        """Bytes on the busiest rank's link in a step, the median over the rehearsed."""
        return statistics.median(course.traffic for course in self.courses)


def dense(ddp: DistributedDataParallel, pace: Pace, size: int, cap: float | None = None) -> list[Errand]:
    """DDP as it comes: one AllReduce a bucket, of at most `cap` bytes (DDP's own) unless one parameter is larger."""
    sizes = [param.nbytes for param in trained(ddp)]
    return [
        Errand(tuple(bucket), (Course((Asked("AllReduce", _ring(sum(sizes[i] for i in bucket), size), 0.0),), 0.0),))
        for bucket in buckets(sizes, pace.order, cap or ddp.bucket_bytes_cap)
    ]


def fp16(ddp: DistributedDataParallel, pace: Pace, size: int, cap: float | None = None) -> list[Errand]:
    """torch's fp16 hook: each bucket rounded to half the bytes, and back, which is done here for the time it takes."""
    params = trained(ddp)
    made: list[Errand] = []
    for bucket in buckets([param.nbytes for param in params], pace.order, cap or ddp.bucket_bytes_cap):
        full = torch.ones(sum(params[i].numel() for i in bucket), device=params[0].device)
        to, back = zip(*(_rounding(full, size) for _ in range(STEPS)), strict=True)
        ask = Asked(HALF, _ring(2 * full.numel(), size), statistics.median(to))
        made.append(Errand(tuple(bucket), (Course((ask,), statistics.median(back)),)))
    return made


def errands(
    exchanged: Exchanged,
    exchange: Exchange,
    unit_bytes: float,
    seed: int = 0,
) -> list[Errand]:
    """Rehearse an exchange on what goes through a door, all workers with the same gradients: an errand a unit.

    Raises:
        ValueError: it cannot be rehearsed, or does not fit the model.
    """
    number = {id(tensor): i for i, (_, tensor) in enumerate(exchanged.named)}
    guarded = Guard(exchange)
    made: list[Errand] = []
    before: dict[int, None] = {}
    for unit in make_units(exchanged.named, guarded, unit_bytes):
        crew = Crew(unit, guarded, exchanged.size)
        own = [number[id(tensor)] for tensor in unit.tensors]
        # A unit is full when all buckets are ready that hold a part of it.
        held = dict.fromkeys(exchanged.waits[i] for i in own)
        laid = [[exchanged.named[i][1] for i in own if exchanged.waits[i] == bucket] for bucket in held]
        rooms = [lay(laid) for _ in range(crew.rooms)]
        brought = of_ranks(unit.tensors, [[exchanged.gradients[i] for i in own]])
        courses = [
            unit_step(guarded, crew, brought, rooms, LATE + step, seed, exchanged.size)[1] for step in range(crew.steps)
        ]
        waits = dict.fromkeys(parameter for bucket in held for parameter in bucket)
        before |= waits
        made.append(Errand(tuple(before if exchanged.in_order else waits), tuple(courses[1:] or courses)))
    return made


def shards(exchanged: Exchanged, unit_bytes: float) -> list[Errand]:
    """Native HSDP: an AllReduce of a unit's shards between the islands."""
    waits = {id(tensor): bucket for (_, tensor), bucket in zip(exchanged.named, exchanged.waits, strict=True)}
    found: list[Errand] = []
    for part in cut(exchanged.named, unit_bytes):
        traffic = _ring(sum(tensor.nbytes for _, tensor in part), exchanged.size)
        parameters = dict.fromkeys(i for _, tensor in part for i in waits[id(tensor)])
        found.append(Errand(tuple(parameters), (Course((Asked("AllReduce", traffic, 0.0),), 0.0),)))
    return found


def lay(buckets: Sequence[Sequence[Tensor]]) -> dict[int, Tensor]:
    """Room for gradients by id of parameter, as DDP has it: one flat vector a bucket."""
    rooms: dict[int, Tensor] = {}
    for params in buckets:
        flat = params[0].new_empty(sum(param.numel() for param in params))
        cuts: Sequence[Tensor] = torch.split(flat, [param.numel() for param in params])
        rooms |= {id(param): cut.view(param.shape) for param, cut in zip(params, cuts, strict=True)}
    return rooms


def unit_step(
    guarded: Guard,
    crew: Crew,
    gradients: Gradients,
    rooms: Sequence[dict[int, Tensor]],
    step: int,
    seed: int,
    size: int,
) -> tuple[list[Sent], Course]:
    """One step of a unit: gradients out of the buckets, the exchange, and means back into them."""
    units, spare = crew.units(), crew.spare

    def begin(unit: Unit, rank: int, room: dict[int, Tensor]) -> Talk[Sent]:
        unit.begin()
        for param, gradient in room.items():
            unit.fill(param, gradient)
        return unit.average(guarded, Turn(rank, size, step, unit.layout, seed, (), unit.params, RATE))

    def ready(number: int, stretch: int) -> None:
        crew.ready(number)
        if stretch == 0:
            gradients.write_(rooms[number % len(rooms)], crew.brings(number))

    def other(unit: Unit, rank: int) -> Talk[Sent]:
        unit.rollback(guarded)
        room = {param: torch.empty_like(gradient) for param, gradient in rooms[0].items()}
        gradients.write_(room, rank)
        return begin(unit, rank, room)

    talks = [begin(unit, rank, rooms[rank % len(rooms)]) for rank, unit in enumerate(units)]
    return rehearse(
        talks, size, clock(units[0].device), ready, None if spare is None else lambda rank: other(spare, rank)
    )


def _ring(nbytes: float, size: int) -> float:
    """Traffic of an all-reduce."""
    return AllReduce(torch.empty(1, dtype=torch.uint8)).busiest(size) * nbytes


def _rounding(full: Tensor, size: int) -> tuple[float, float]:
    """Seconds to half precision, divided, and back into the buffer."""
    now = clock(full.device)
    started = now()
    half = full.to(torch.float16).div_(size)
    between = now()
    full.copy_(half)
    return between - started, now() - between
