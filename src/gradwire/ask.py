"""What a worker may ask of its peers. `await` is the network; the transport that runs the coroutine answers.

All workers must ask for the same thing at the same time: the same kind, shape, dtype, op and root. An ask knows what
there is to know about it: the bytes it brings and makes, its shape check, and its answer where all workers live in one
process. So a transport never asks what kind it has, except the one that calls a network's collectives.

Workers may ask among some of them: `Among(AllReduce(x), Axis(8))` adds up the x of every eight neighbours. All workers
ask so at the same time, each in its own group.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

Op: TypeAlias = Literal["sum", "max"]
"""How an AllReduce combines values."""


class Collective(Protocol):
    """What every ask is: a frozen record of what one worker brings."""

    @property
    def x(self) -> Tensor:
        """What the worker brings."""
        ...

    @property
    def in_place(self) -> bool:
        """Whether a network's collective overwrites x and somebody still reads it, so that a process copies x first."""
        ...

    @property
    def kind(self) -> str:
        """The name of the collective, by which costs are known and bytes are counted."""
        ...

    @property
    def axis(self) -> Axis | None:
        """Among which workers; None for all."""
        ...

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        """Yield the ask itself; the transport that runs the coroutine sends the answer."""
        ...

    def bringing(self, x: Tensor) -> Ask:
        """Return the same ask of another x."""
        ...

    def check(self, size: int) -> None:
        """Refuse an x that does not fit `size` workers (ValueError)."""
        ...

    def brought(self, rank: int | slice) -> int:
        """Bytes that a rank, or a batch of all ranks, brings."""
        ...

    def traffic(self, rank: int | slice, size: int) -> float:
        """Bytes on a rank's link, or on all links of a batch together, by the algorithms of gloo (see `Ledger`)."""
        ...

    def busiest(self, size: int) -> float:
        """Bytes on the link of the rank that has most of them."""
        ...

    def arriving(self, size: int) -> float:
        """Bytes that arrive on a rank's link."""
        ...

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """Answer the asks of all workers in one process, in the order of ranks; no two answers share memory."""
        ...

    def batched(self, size: int) -> Tensor:
        """Answer the ask of a batch, in which x has a leading axis of `size` workers."""
        ...

    def alone(self, size: int) -> Tensor:
        """Answer one worker as if all `size` workers brought what it brings."""
        ...

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Return a rank's ask with a flag and a tag behind its message; None if its message has no room for them.

        The tag, from 0 to 127, tells what the message is about: it must be the same on all workers.
        """
        ...

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """Split the answer to `carrying`: the answer without the flags, and whether any worker's flag is set.

        ValueError if another worker's message has another tag.
        """
        ...


@dataclass(frozen=True)
class AllReduce:
    """Combine f[...] or integers over the workers, by sum or by max. The answer is new, of x's shape and dtype.

    Args:
        x: what the worker brings.
        op: "sum" or "max".
        spare: nothing else reads x, so a process may let the answer overwrite it.

    Raises:
        ValueError: op is neither "sum" nor "max".
    """

    x: Tensor
    op: Op = "sum"
    spare: bool = False
    kind: ClassVar[str] = "AllReduce"
    axis: ClassVar[None] = None

    @property
    def in_place(self) -> bool:
        """Unless x is to spare."""
        return not self.spare

    def __post_init__(self) -> None:
        if self.op not in ("sum", "max"):
            raise ValueError(f"AllReduce combines by 'sum' or 'max', got op={self.op!r}")

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return _put(self)

    def bringing(self, x: Tensor) -> Ask:
        """The same ask of another x."""
        return replace(self, x=x)

    def check(self, size: int) -> None:
        """Any shape will do."""

    def brought(self, rank: int | slice) -> int:
        """Bytes of x."""
        return self.x.nbytes

    def traffic(self, rank: int | slice, size: int) -> float:
        """Ring all-reduce: 2 (n - 1) / n of x."""
        return 2 * (size - 1) / size * self.x.nbytes

    def busiest(self, size: int) -> float:
        """The same for all ranks."""
        return self.traffic(0, size)

    def arriving(self, size: int) -> float:
        """As many as leave."""
        return self.traffic(0, size)

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """Combine one worker after the other, in the order of ranks."""
        combined = asks[0].x.clone()
        for ask in asks[1:]:
            if self.op == "sum":
                combined.add_(ask.x)
            else:
                torch.maximum(combined, ask.x, out=combined)
        return [combined.clone() for _ in asks]

    def batched(self, size: int) -> Tensor:
        """Combine the rows, in x's dtype."""
        return self.x.sum(0, dtype=self.x.dtype) if self.op == "sum" else self.x.amax(0)

    def alone(self, size: int) -> Tensor:
        """`size` times x, or x."""
        return self.x * size if self.op == "sum" else self.x.clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Append a number to x, end to end: 1 or 0, and of a sum the `marked` tag. None of integers below 32 bits."""
        if not self.x.is_floating_point() and self.x.dtype not in (torch.int32, torch.int64):
            return None
        flat = self.x.reshape(-1)
        return replace(self, x=torch.cat([flat, flat.new_full((1,), flag + self._mark(tag, size))]), spare=True)

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """The last number, less all tags, is above 0 where any worker's flag is set."""
        combined = answer[:-1].view(self.x.shape)
        if self.op == "max":
            return combined, bool(answer[-1] > 0)
        return combined, unmarked(answer[-1:], self._mark(tag, size), size)

    def _mark(self, tag: int, size: int) -> int:
        """A largest number says nothing of the others."""
        return marked(tag, size, EXACT.get(self.x.dtype, 24)) if self.op == "sum" else 0


@dataclass(frozen=True)
class AllGather:
    """Hand every worker's bytes u8[m] to every worker. The answer is u8[n, m], in the order of ranks."""

    x: Tensor
    in_place: ClassVar[bool] = False
    kind: ClassVar[str] = "AllGather"
    axis: ClassVar[None] = None

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return _put(self)

    def bringing(self, x: Tensor) -> Ask:
        """The same ask of another x."""
        return replace(self, x=x)

    def check(self, size: int) -> None:
        """Any length will do."""

    def brought(self, rank: int | slice) -> int:
        """Bytes of x."""
        return self.x.nbytes

    def traffic(self, rank: int | slice, size: int) -> float:
        """Ring all-gather: n - 1 times x."""
        return (size - 1) * self.x.nbytes

    def busiest(self, size: int) -> float:
        """The same for all ranks."""
        return self.traffic(0, size)

    def arriving(self, size: int) -> float:
        """As many as leave."""
        return self.traffic(0, size)

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """All workers' bytes for every worker."""
        gathered = torch.stack([ask.x for ask in asks])
        return [gathered.clone() for _ in asks]

    def batched(self, size: int) -> Tensor:
        """The rows as they are."""
        return self.x

    def alone(self, size: int) -> Tensor:
        """`size` copies of x."""
        return self.x.expand(size, *self.x.shape).clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Append one byte: the flag in its lowest bit, the tag in the others."""
        return AllGather(torch.cat([self.x, self.x.new_full((1,), flag + 2 * tag)]))

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """The last byte of every row is a flag and a tag."""
        return _without_last(answer), _flag_of(answer[:, -1], tag)


@dataclass(frozen=True)
class Broadcast:
    """Hand the root's tensor to every worker; what the others bring gives shape and dtype only."""

    x: Tensor
    root: int
    in_place: ClassVar[bool] = True
    kind: ClassVar[str] = "Broadcast"
    axis: ClassVar[None] = None

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return _put(self)

    def bringing(self, x: Tensor) -> Ask:
        """The same ask of another x."""
        return replace(self, x=x)

    def check(self, size: int) -> None:
        """Refuse a root that is no rank."""
        if not 0 <= self.root < size:
            raise ValueError(f"a broadcast among {size} workers needs a root from 0 to {size - 1}, got {self.root}")

    def brought(self, rank: int | slice) -> int:
        """Bytes of x for the root, none for the others."""
        if isinstance(rank, slice):
            return self.x[self.root].nbytes
        return self.x.nbytes if rank == self.root else 0

    def traffic(self, rank: int | slice, size: int) -> float:
        """Binomial broadcast: x once for every child in the tree."""
        if isinstance(rank, slice):
            return (size - 1) * self.x[self.root].nbytes
        return _children((rank - self.root) % size, size) * self.x.nbytes

    def busiest(self, size: int) -> float:
        """The root's."""
        return self.traffic(self.root, size)

    def arriving(self, size: int) -> float:
        """x, once."""
        return self.x.nbytes if size > 1 else 0

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """The root's tensor for every worker."""
        return [asks[self.root].x.clone() for _ in asks]

    def batched(self, size: int) -> Tensor:
        """The root's row."""
        return self.x[self.root].clone()

    def alone(self, size: int) -> Tensor:
        """A copy of x."""
        return self.x.clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Sum the root's bits with the others' zeros, and the flags behind them: any worker may have one to set.

        i32[m + 1], the message padded to whole words. None above 64 KiB: such a sum makes twice the bytes in all.
        """
        self.check(size)
        if self.x.nbytes > SUMMED:
            return None
        octets = self.x.reshape(-1).view(torch.uint8)
        words = torch.nn.functional.pad(octets, (0, -len(octets) % 4)).view(torch.int32)
        return AllReduce(words if rank == self.root else torch.zeros_like(words)).carrying(flag, tag, size)

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """The root's message, and the flags as a sum carries them."""
        words, anybody = AllReduce(answer[:-1]).carried(answer, tag, size)
        return words.view(torch.uint8)[: self.x.nbytes].view(self.x.dtype).view(self.x.shape), anybody


@dataclass(frozen=True)
class AllToAll:
    """Hand row r of the bytes u8[n, m] to rank r. The answer is u8[n, m]: row r is what rank r had for this worker."""

    x: Tensor
    in_place: ClassVar[bool] = False
    kind: ClassVar[str] = "AllToAll"
    axis: ClassVar[None] = None

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return _put(self)

    def bringing(self, x: Tensor) -> Ask:
        """The same ask of another x."""
        return replace(self, x=x)

    def check(self, size: int) -> None:
        """Refuse another number of rows than workers."""
        if self.x.ndim < 2 or self.x.shape[-2] != size:
            raise ValueError(f"an all-to-all brings one row for each of {size} workers, got {describe(self)}")

    def brought(self, rank: int | slice) -> int:
        """Bytes of x, one's own row too."""
        return self.x.nbytes

    def traffic(self, rank: int | slice, size: int) -> float:
        """Direct messages: all rows but one's own."""
        return (size - 1) / size * self.x.nbytes

    def busiest(self, size: int) -> float:
        """The same for all ranks."""
        return self.traffic(0, size)

    def arriving(self, size: int) -> float:
        """As many as leave."""
        return self.traffic(0, size)

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """Row r of every worker for worker r."""
        routed = torch.stack([ask.x for ask in asks], 1)
        return [received.clone() for received in routed]

    def batched(self, size: int) -> Tensor:
        """[n, n, m] with senders and receivers exchanged."""
        return self.x.transpose(0, 1).clone()

    def alone(self, size: int) -> Tensor:
        """A copy of x."""
        return self.x.clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Append one byte to every row: the flag in its lowest bit, the tag in the others."""
        return AllToAll(torch.cat([self.x, self.x.new_full((len(self.x), 1), flag + 2 * tag)], 1))

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """The last byte of every row is a flag and a tag."""
        return _without_last(answer), _flag_of(answer[:, -1], tag)


@dataclass(frozen=True)
class Axis:
    """One axis of a grid in which the workers stand: a group is the `size` workers along it, `stride` ranks apart.

    Of 12 workers, `Axis(4)` makes the groups 0-3, 4-7 and 8-11, and `Axis(3, 4)` makes (0, 4, 8), (1, 5, 9) and so on.

    Raises:
        ValueError: a size or a stride below 1.
    """

    size: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1:
            raise ValueError(f"an axis has a size and a stride of at least 1, got {self.size} and {self.stride}")

    def check(self, workers: int) -> None:
        """Refuse a number of workers that does not fill the grid (ValueError)."""
        if workers % (self.size * self.stride):
            raise ValueError(
                f"groups of {self.size} workers, {self.stride} ranks apart, need a multiple of "
                f"{self.size * self.stride} workers, got {workers}"
            )

    def place(self, rank: int) -> int:
        """A worker's rank in its group."""
        return rank // self.stride % self.size

    def number(self, rank: int) -> int:
        """The number of a worker's group."""
        return rank // (self.stride * self.size) * self.stride + rank % self.stride

    def members(self, rank: int) -> list[int]:
        """The ranks of a worker's group, in order."""
        first = rank - self.place(rank) * self.stride
        return [first + place * self.stride for place in range(self.size)]

    def groups(self, workers: int) -> list[list[int]]:
        """The ranks of every group, by its number."""
        firsts = (rank for rank in range(workers) if self.place(rank) == 0)
        return [self.members(rank) for rank in sorted(firsts, key=self.number)]

    def inside(self, other: Axis) -> Axis:
        """This axis, which counts the workers of a group of `other`, as one that counts all workers."""
        return Axis(self.size, self.stride * other.stride)


Plain: TypeAlias = AllReduce | AllGather | Broadcast | AllToAll
"""An ask among all workers."""


@dataclass(frozen=True)
class Among:
    """An ask that every group of workers along an axis is answered for itself.

    On a batch the answer has a leading axis of groups, by their number.
    """

    ask: Plain
    axis: Axis

    @property
    def x(self) -> Tensor:
        """What the worker brings."""
        return self.ask.x

    @property
    def in_place(self) -> bool:
        """The ask's."""
        return self.ask.in_place

    @property
    def kind(self) -> str:
        """The ask's."""
        return self.ask.kind

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return _put(self)

    def bringing(self, x: Tensor) -> Ask:
        """The same ask of another x."""
        return replace(self, ask=replace(self.ask, x=x))

    def check(self, size: int) -> None:
        """Refuse workers that do not fill the grid, and an x that does not fit a group."""
        self.axis.check(size)
        self.ask.check(self.axis.size)

    def brought(self, rank: int | slice) -> int:
        """The ask's, in every group."""
        if isinstance(rank, slice):
            return sum(ask.brought(rank) for ask in self._batches())
        return self.ask.brought(self.axis.place(rank))

    def traffic(self, rank: int | slice, size: int) -> float:
        """The ask's, in every group."""
        if isinstance(rank, slice):
            return sum(ask.traffic(rank, self.axis.size) for ask in self._batches())
        return self.ask.traffic(self.axis.place(rank), self.axis.size)

    def busiest(self, size: int) -> float:
        """The ask's, in a group."""
        return self.ask.busiest(self.axis.size)

    def arriving(self, size: int) -> float:
        """The ask's, in a group."""
        return self.ask.arriving(self.axis.size)

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """The ask's answers, group by group."""
        found: dict[int, Tensor] = {}
        for ranks in self.axis.groups(len(asks)):
            parts = [ask.ask for rank in ranks if isinstance(ask := asks[rank], Among)]
            found |= zip(ranks, parts[0].answers(parts), strict=True)
        return [found[rank] for rank in range(len(asks))]

    def batched(self, size: int) -> Tensor:
        """[groups, ...]: the ask's answer to every group."""
        return torch.stack([ask.batched(self.axis.size) for ask in self._batches()])

    def alone(self, size: int) -> Tensor:
        """The ask's, in a group."""
        return self.ask.alone(self.axis.size)

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """None: a flag must reach all workers, and this message reaches a group."""
        return None

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """Never called: it carries no flag."""
        return answer, False

    def _batches(self) -> list[Plain]:
        """The batch, group by group."""
        return [replace(self.ask, x=self.x[ranks]) for ranks in self.axis.groups(len(self.x))]


Ask: TypeAlias = Plain | Among

ASKS = (AllReduce, AllGather, Broadcast, AllToAll)
"""Every kind of collective."""


def among(ask: Ask, axis: Axis) -> Among:
    """Put an ask of a group's workers as one of all workers, whose groups lie along `axis`."""
    return Among(ask.ask, ask.axis.inside(axis)) if isinstance(ask, Among) else Among(ask, axis)


Talk: TypeAlias = Coroutine[Ask, Tensor, T]
"""A running algorithm: it asks, is sent answers, and ends with a T."""


def describe(ask: Ask) -> str:
    """Describe an ask in a few words, for error messages: `AllReduce(float32[10])`."""
    if isinstance(ask, Among):
        return f"{describe(ask.ask)} among {ask.axis.size} workers, {ask.axis.stride} apart"
    options = f", root={ask.root}" if isinstance(ask, Broadcast) else ""
    if isinstance(ask, AllReduce) and ask.op != "sum":
        options = f", op={ask.op!r}"
    return f"{type(ask).__name__}({str(ask.x.dtype).removeprefix('torch.')}{list(ask.x.shape)}{options})"


APART = (
    "the ranks are at different steps, or at different units of one: every rank must run the same backward passes "
    "in the same order"
)
"""What is wrong where tags differ."""


SUMMED = 1 << 16
"""Bytes of a broadcast up to which it carries a flag."""

EXACT: dict[torch.dtype, int] = {torch.float16: 11, torch.bfloat16: 8}
"""Bits of the whole numbers that a dtype holds exactly, where that is less than float32's 24."""


def marked(tag: int, size: int, bits: int = 24) -> int:
    """What is added to a flag, 0 or 1, that is summed over `size` workers: the tag, above all sums of flags.

    The sum must be exact, in float32 by default, so from 256 workers on only the tag's lowest bits are told.
    """
    weight = 1 << size.bit_length()
    return weight * (tag % min(128, max(1, (1 << bits) // (weight * size + 1))))


def unmarked(total: Tensor, mark: int, size: int) -> bool:
    """Whether any flag is set in a sum f[1] of marked ones (ValueError: other workers have another tag)."""
    flags = float(total.item()) - mark * size
    if not 0 <= flags <= size:
        raise ValueError(APART)
    return flags > 0


def _flag_of(octets: Tensor, tag: int) -> bool:
    """Whether any flag is set among bytes u8[n] (ValueError: other workers have another tag)."""
    if bool((octets >> 1 != tag).any()):
        raise ValueError(APART)
    return bool((octets & 1).any())


def _without_last(rows: Tensor) -> Tensor:
    """u8[n, m] without the last column. torch takes a single row for contiguous, whatever its stride is."""
    return rows[:, :-1].reshape(-1).view(len(rows), -1) if rows.shape[1] > 1 else rows[:, :0]


def _put(ask: Ask) -> Generator[Ask, Tensor, Tensor]:
    """Yield the ask, and return what is sent. A transport sends or closes; an event loop throws.

    Raises:
        TypeError: an event loop was given the ask, as by asyncio.run(exchange(...)).
    """
    try:
        return (yield ask)
    except Exception as error:
        raise TypeError(
            f"{describe(ask)} was awaited in an event loop, which cannot answer it: run the exchange in a Simulator or "
            "by lockstep(...), not by asyncio"
        ) from error


def _children(place: int, size: int) -> int:
    """Children of a place in a binomial tree of `size` places rooted at 0."""
    rounds = range((size - 1).bit_length())
    return sum(place < 1 << i and place + (1 << i) < size for i in rounds)
