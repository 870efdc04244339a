"""The work of one worker in an exchange, by rehearsal without a network: computing, collectives, memory."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradwire.advice.crew import Crew
from gradwire.advice.gradients import Gradients, of_ranks
from gradwire.advice.network import Network
from gradwire.advice.rounds import differences
from gradwire.advice.work import LATE, bucket_buffers, unit_step
from gradwire.ask import AllReduce, Axis, among
from gradwire.engine import Unit, make_units
from gradwire.engine.units import cut
from gradwire.exchange import Exchange, State
from gradwire.exchange.islands.exchange import Islands
from gradwire.exchange.islands.slices import SHORT, relayed
from gradwire.exchange.protocol import flatten
from gradwire.lab.ways import DENSE, local_steps
from gradwire.layout import Layout, Turn
from gradwire.memory.guard import Guard
from gradwire.spec import as_outer, parse
from gradwire.transport.rehearsal import Asked, Course
from gradwire.vector import Sent, Sparse

Named = Sequence[tuple[str, Tensor]]


@dataclass(frozen=True)
class Work:
    """The work of one of `size` workers in an exchange: its courses of computing and collectives, unit by unit.

    every: steps between two exchanges. memory: bytes that a worker holds beside model and gradients: its state, and the
    largest unit's answers and mean. refusal: why the method could not be rehearsed, or "".
    """

    method: str
    size: int
    every: int
    courses: tuple[Course, ...]
    memory: float
    refusal: str = ""

    @property
    def selection(self) -> float:
        """Seconds of computing before each unit's last collective."""
        return sum(ask.seconds for course in self.courses for ask in course.asks)

    @property
    def decode(self) -> float:
        """Seconds of computing after each unit's last collective."""
        return sum(course.rest for course in self.courses)

    @property
    def up(self) -> float:
        """Bytes that the busiest rank sends on its link."""
        return sum(course.traffic for course in self.courses)

    @property
    def down(self) -> float:
        """Bytes that arrive on a rank's link."""
        return sum(ask.arriving for course in self.courses for ask in course.asks)

    def wire(self, network: Network) -> float:
        """Seconds of all collectives on a network."""
        return sum(network.course(course, self.size) for course in self.courses)


def work_of(method: str, named: Named, gradients: Sequence[Sequence[Tensor]], size: int, unit_bytes: float) -> Work:
    """Rehearse a method on a model's named parameters; if it refuses, the result holds the reason.

    `gradients` has one list for each of the first ranks, with a gradient for every parameter; the other ranks'
    gradients are drawn to be like these (advice/gradients.py).
    """
    all_gradients = of_ranks([tensor for _, tensor in named], gradients)
    way = local_steps(method)
    every = 1 if way is None else way.every
    gc.collect()
    gc.disable()  # a collection in one of a thousand workers would make it the slowest
    try:
        if method == DENSE:
            courses, memory = _dense(named, size, unit_bytes), 0.0
        elif way is not None:
            courses, memory = _local(way.exchange, way.outer, named, all_gradients, size, unit_bytes)
        else:
            courses, memory = _spec(parse(method), named, all_gradients, size, unit_bytes)
    except (ValueError, RuntimeError, IndexError, TypeError) as refusal:
        return Work(method, size, every, (), 0.0, str(refusal).splitlines()[0])
    finally:
        gc.enable()
    return Work(method, size, every, tuple(courses), memory)


def _dense(named: Named, size: int, unit_bytes: float) -> list[Course]:
    """An AllReduce for each unit, without DDP's own computing."""
    sizes = [sum(tensor.nbytes for _, tensor in part) for part in cut(named[::-1], unit_bytes)]
    one = AllReduce(torch.empty(1, dtype=torch.uint8)).busiest(size)
    return [Course((Asked("AllReduce", one * b, 0.0, None, one * b, b, b),), 0.0) for b in sizes]


def _local(
    exchange: str, outer: str, named: Named, gradients: Gradients, size: int, unit_bytes: float
) -> tuple[list[Course], float]:
    """The courses and memory of local steps: state, anchor and difference, and the largest answer.

    The few bytes by which ranks agree on the end of a round are left out.
    """
    made = parse(exchange)
    courses = differences(made, as_outer(outer, "local"), named[::-1], gradients, size, unit_bytes)
    d = sum(tensor.numel() for _, tensor in named)
    layout = Layout(["x"], [(d,)])
    return courses, held(made.init(layout)) + 8.0 * d + max(_answers(course) for course in courses)


def _spec(
    exchange: Exchange, named: Named, gradients: Gradients, size: int, unit_bytes: float
) -> tuple[list[Course], float]:
    """The courses and memory of an exchange on units as the engine makes them."""
    apart = isinstance(exchange, Islands)
    if apart:
        exchange.check_workers(size)
    inner = exchange.between if apart else exchange
    units = make_units(named[::-1], Guard(inner), unit_bytes, fused=not apart)
    memory, transient, courses = 0.0, 0.0, list[Course]()
    for unit in units:
        memory += held(unit.state)
        if apart:
            course, mean = _islands(exchange, unit, gradients, size)
        else:
            course, mean = _course(inner, unit, gradients, size)
        courses.append(course)
        transient = max(transient, _answers(course) + mean)
    return courses, memory + transient


def _course(exchange: Exchange, unit: Unit, gradients: Gradients, size: int) -> tuple[Course, float]:
    """Rehearse a unit; return its median course and the bytes of its mean."""
    guarded = Guard(exchange)
    crew = Crew(unit, guarded, size, alike=gradients.alike)
    buffers = [bucket_buffers([list(unit.tensors)]) for _ in range(crew.buffers)]
    courses: list[Course] = []
    mean = 0.0
    for step in range(crew.steps):
        sent, course = unit_step(guarded, crew, gradients, buffers, LATE + step, 0, size)
        courses.append(course)
        mean = _mean(sent[0])
    return _median(courses[1:] or courses), mean


def _islands(islands: Islands, unit: Unit, gradients: Gradients, size: int) -> tuple[Course, float]:
    """The course of `islands`: `inner`, rehearsed with an island's members, then `between`, with a worker an island.

    All members of an island do the same work, so not all of them are rehearsed. A test compares this with a rehearsal
    of all workers.
    """
    inside, between = Axis(islands.size), Axis(size // islands.size, islands.size)
    (named,) = cut(list(zip(unit.layout.names, unit.tensors, strict=True)), float("inf"))
    (lone,) = make_units(named, Guard(islands.inner), float("inf"), fused=False)
    met, _ = _course(_Group(islands.inner), lone, gradients, islands.size)
    course, mean = _course(_Group(islands.between), unit, gradients.islands(islands.size), between.size)
    asked = [_number(size, sum(ask.seconds for ask in course.asks[:1] if _is_guards(ask)))]
    asked += [replace(ask, axis=inside) for ask in met.asks if not _is_guards(ask)]
    for ask in (ask for ask in course.asks if not _is_guards(ask)):
        asked += _sliced(ask, inside, between)
    return Course(tuple(asked), course.rest), mean


@dataclass(frozen=True)
class _Group:
    """An exchange among some of the workers, whose messages carry no flag of all workers."""

    exchange: Exchange

    def init(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_shape: tuple[int, ...] = (),
    ) -> State:
        return self.exchange.init(layout, dtype, device, batch_shape)

    async def __call__(self, x: Tensor, state: State, turn: Turn) -> Sent:
        talk = self.exchange(x, state, turn)
        if isinstance(turn.rank, slice):
            return await talk
        return await relayed(talk, lambda ask: among(ask, Axis(turn.size)))

    def omega(self, d: int) -> float | None:
        return self.exchange.omega(d)

    def delta(self, d: int) -> float | None:
        return self.exchange.delta(d)


def _is_guards(ask: Asked) -> bool:
    """Whether an ask is the guard's flag, which is summed over all workers."""
    return ask.axis is None


def _number(size: int, seconds: float) -> Asked:
    """The guard's flag, which is summed over all workers."""
    ask = AllReduce(torch.zeros(1))
    return Asked(ask.kind, ask.busiest(size), seconds, None, ask.arriving(size), 4, 4)


def _sliced(ask: Asked, inside: Axis, between: Axis) -> list[Asked]:
    """Split an ask between islands into slices, one for each member of an island (exchange/islands/slices.py)."""
    s = inside.size
    if s == 1 or ask.brought < SHORT:
        return [replace(ask, axis=between)]
    part = replace(
        ask, traffic=ask.traffic / s, arriving=ask.arriving / s, brought=ask.brought // s, answer=ask.answer // s,
        axis=between,
    )  # fmt: skip
    joined = (s - 1) * ask.answer / s
    return [part, Asked("AllGather", joined, 0.0, inside, joined, ask.answer // s, ask.answer)]


def held(state: State) -> float:
    """Bytes of a state's tensors."""
    return sum(part.nbytes for *_, part in flatten(state))


def _answers(course: Course) -> float:
    """Bytes of a course's largest answer."""
    return max((ask.answer for ask in course.asks), default=0)


def _mean(sent: Sent) -> float:
    mean = sent.mean
    return mean.indices.nbytes + mean.values.nbytes if isinstance(mean, Sparse) else 0.0


def _median(courses: Sequence[Course]) -> Course:
    """The median course: for each stretch of computing, the median of its seconds over the courses.

    Asks of different steps differ at most in the bytes of random messages. If steps make different numbers of asks, as
    with thresholds that are recomputed now and then, the course with the median traffic is returned.
    """
    last = courses[-1]
    if any(len(course.asks) != len(last.asks) for course in courses):
        return sorted(courses, key=lambda course: course.traffic)[len(courses) // 2]
    stretches = zip(*([ask.seconds for ask in course.asks] for course in courses), strict=True)
    asks = tuple(
        replace(ask, seconds=statistics.median(seconds)) for ask, seconds in zip(last.asks, stretches, strict=True)
    )
    return Course(asks, statistics.median(course.rest for course in courses))
