"""The work of a method in a step's network lane: computing and collectives, found by rehearsal on this machine.

torch's own methods reduce DDP's buckets. gradwire's exchanges work on units; a unit begins when all buckets that hold
its tensors are ready.
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
"""The step number at which rehearsals begin: beyond any warm-up, and a multiple of most periods."""

RATE = 0.1
"""The learning rate of rehearsals, for memories that use one."""


@dataclass(frozen=True)
class UnitWork:
    """The exchange of one unit, or the reduction of one of DDP's buckets.

    parameters: the parameters, by DDP's index, whose gradients must be ready. courses: one for each rehearsed step.
    """

    parameters: tuple[int, ...]
    courses: tuple[Course, ...]

    def job(self, step: int, pace: Pace, link: Link) -> Job:
        """The job of a rehearsed step, with its collectives on a link."""
        course = self.courses[step % len(self.courses)]
        parts = [
            part for ask in course.asks for part in (Part(ask.seconds, 0.0), link.part(ask.kind, ask.traffic, ask.axis))
        ]
        return Job(pace.when(self.parameters), (*parts, Part(course.rest, 0.0)))

    @property
    def traffic(self) -> float:
        """Bytes on the busiest rank's link in a step, the median over the rehearsed steps."""
        return statistics.median(course.traffic for course in self.courses)


def dense(ddp: DistributedDataParallel, pace: Pace, size: int, cap: float | None = None) -> list[UnitWork]:
    """The work of plain DDP: one AllReduce for each bucket, which holds up to `cap` bytes (default: DDP's own cap)."""
    sizes = [param.nbytes for param in trained(ddp)]
    return [
        UnitWork(tuple(bucket), (Course((Asked("AllReduce", _ring(sum(sizes[i] for i in bucket), size), 0.0),), 0.0),))
        for bucket in buckets(sizes, pace.order, cap or ddp.bucket_bytes_cap)
    ]


def fp16(ddp: DistributedDataParallel, pace: Pace, size: int, cap: float | None = None) -> list[UnitWork]:
    """The work of torch's fp16 hook: an AllReduce of half the bytes for each bucket; casts are timed here."""
    params = trained(ddp)
    made: list[UnitWork] = []
    for bucket in buckets([param.nbytes for param in params], pace.order, cap or ddp.bucket_bytes_cap):
        full = torch.ones(sum(params[i].numel() for i in bucket), device=params[0].device)
        to, back = zip(*(_rounding(full, size) for _ in range(STEPS)), strict=True)
        ask = Asked(HALF, _ring(2 * full.numel(), size), statistics.median(to))
        made.append(UnitWork(tuple(bucket), (Course((ask,), statistics.median(back)),)))
    return made


def rehearse_units(
    exchanged: Exchanged,
    exchange: Exchange,
    unit_bytes: float,
    seed: int = 0,
) -> list[UnitWork]:
    """Rehearse an exchange on a door's tensors, with the same gradients on all workers; return every unit's work.

    Raises:
        ValueError: the exchange cannot be rehearsed, or does not fit the model.
    """
    number = {id(tensor): i for i, (_, tensor) in enumerate(exchanged.named)}
    guarded = Guard(exchange)
    made: list[UnitWork] = []
    before: dict[int, None] = {}
    for unit in make_units(exchanged.named, guarded, unit_bytes):
        crew = Crew(unit, guarded, exchanged.size)
        own = [number[id(tensor)] for tensor in unit.tensors]
        # A unit can begin when all buckets that hold a part of it are ready.
        held = dict.fromkeys(exchanged.waits[i] for i in own)
        laid = [[exchanged.named[i][1] for i in own if exchanged.waits[i] == bucket] for bucket in held]
        buffers = [bucket_buffers(laid) for _ in range(crew.buffers)]
        unit_gradients = of_ranks(unit.tensors, [[exchanged.gradients[i] for i in own]])
        courses = [
            unit_step(guarded, crew, unit_gradients, buffers, LATE + step, seed, exchanged.size)[1]
            for step in range(crew.steps)
        ]
        waits = dict.fromkeys(parameter for bucket in held for parameter in bucket)
        before |= waits
        made.append(UnitWork(tuple(before if exchanged.in_order else waits), tuple(courses[1:] or courses)))
    return made


def shards(exchanged: Exchanged, unit_bytes: float) -> list[UnitWork]:
    """The work of native HSDP: an AllReduce of each unit's shards between the islands."""
    waits = {id(tensor): bucket for (_, tensor), bucket in zip(exchanged.named, exchanged.waits, strict=True)}
    found: list[UnitWork] = []
    for part in cut(exchanged.named, unit_bytes):
        traffic = _ring(sum(tensor.nbytes for _, tensor in part), exchanged.size)
        parameters = dict.fromkeys(i for _, tensor in part for i in waits[id(tensor)])
        found.append(UnitWork(tuple(parameters), (Course((Asked("AllReduce", traffic, 0.0),), 0.0),)))
    return found


def bucket_buffers(buckets: Sequence[Sequence[Tensor]]) -> dict[int, Tensor]:
    """Allocate gradient buffers by id of parameter, as DDP does: views into one flat vector a bucket."""
    buffers: dict[int, Tensor] = {}
    for params in buckets:
        flat = params[0].new_empty(sum(param.numel() for param in params))
        cuts: Sequence[Tensor] = torch.split(flat, [param.numel() for param in params])
        buffers |= {id(param): cut.view(param.shape) for param, cut in zip(params, cuts, strict=True)}
    return buffers


def unit_step(
    guarded: Guard,
    crew: Crew,
    gradients: Gradients,
    buffers: Sequence[dict[int, Tensor]],
    step: int,
    seed: int,
    size: int,
) -> tuple[list[Sent], Course]:
    """Rehearse one step of a unit: copy gradients out of the buffers, exchange, and write means back.

    Returns every rehearsed worker's result, and the course: seconds of computing and the collectives between them.
    """
    units, spare = crew.units(), crew.spare

    def begin(unit: Unit, rank: int, buffer: dict[int, Tensor]) -> Talk[Sent]:
        unit.begin()
        for param, gradient in buffer.items():
            unit.fill(param, gradient)
        return unit.average(guarded, Turn(rank, size, step, unit.layout, seed, (), unit.params, RATE))

    def ready(number: int, stretch: int) -> None:
        crew.ready(number)
        if stretch == 0:
            gradients.write_(buffers[number % len(buffers)], crew.gradient_rank(number))

    def other(unit: Unit, rank: int) -> Talk[Sent]:
        unit.rollback(guarded)
        buffer = {param: torch.empty_like(gradient) for param, gradient in buffers[0].items()}
        gradients.write_(buffer, rank)
        return begin(unit, rank, buffer)

    talks = [begin(unit, rank, buffers[rank % len(buffers)]) for rank, unit in enumerate(units)]
    return rehearse(
        talks, size, clock(units[0].device), ready, None if spare is None else lambda rank: other(spare, rank)
    )


def _ring(nbytes: float, size: int) -> float:
    """Traffic of an all-reduce of `nbytes` bytes on the busiest rank's link."""
    return AllReduce(torch.empty(1, dtype=torch.uint8)).busiest(size) * nbytes


def _rounding(full: Tensor, size: int) -> tuple[float, float]:
    """Seconds to cast a buffer to half precision and divide it, and seconds to copy it back."""
    now = clock(full.device)
    started = now()
    half = full.to(torch.float16).div_(size)
    between = now()
    full.copy_(half)
    return between - started, now() - between
