"""Asks among all workers: four collectives."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from gradwire.ask.collective import describe, put
from gradwire.ask.flags import EXACT, SUMMED, flag_of, marked, unmarked, without_last

if TYPE_CHECKING:
    from gradwire.ask.among import Ask

Op: TypeAlias = Literal["sum", "max"]
"""How an AllReduce combines values."""


@dataclass(frozen=True)
class AllReduce:
    """Combine f[...] or integers over the workers, by sum or by max. The answer is new, of x's shape and dtype.

    Args:
        x: what the worker brings.
        op: "sum" or "max".
        spare: nothing else reads x, so a process may let the answer overwrite it.
        partial: x is a part of a message, and zeros elsewhere, so that only all workers' x make the answer.

    Raises:
        ValueError: op is neither "sum" nor "max".
    """

    x: Tensor
    op: Op = "sum"
    spare: bool = False
    partial: bool = False
    kind: ClassVar[str] = "AllReduce"
    axis: ClassVar[None] = None
    in_rows: ClassVar[bool] = False

    @property
    def in_place(self) -> bool:
        """Unless x is to spare."""
        return not self.spare

    def __post_init__(self) -> None:
        if self.op not in ("sum", "max"):
            raise ValueError(f"AllReduce combines by 'sum' or 'max', got op={self.op!r}")

    @property
    def options(self) -> str:
        """The op, but for sums."""
        return "" if self.op == "sum" else f", op={self.op!r}"

    @property
    def family(self) -> Hashable:
        """Of one dtype and op."""
        return self.kind, self.op, self.partial, self.x.dtype, self.x.device

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return put(self)

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

    def senders(self, size: int) -> Sequence[int]:
        """None, unless x is partial."""
        return range(size) if self.partial else ()

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """`size` times x, or x; of partial x the senders' sum."""
        if sent:
            return self.answers(sent)[0]
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
    options: ClassVar[str] = ""
    in_rows: ClassVar[bool] = True

    @property
    def family(self) -> Hashable:
        """Bytes are alike."""
        return self.kind, self.x.device

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return put(self)

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

    def senders(self, size: int) -> Sequence[int]:
        """All."""
        return range(size)

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """The senders' bytes, or `size` copies of x."""
        return torch.stack([ask.x for ask in sent]) if sent else self.x.expand(size, *self.x.shape).clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Append one byte: the flag in its lowest bit, the tag in the others."""
        return AllGather(torch.cat([self.x, self.x.new_full((1,), flag + 2 * tag)]))

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """The last byte of every row is a flag and a tag."""
        return without_last(answer), flag_of(answer[:, -1], tag)


@dataclass(frozen=True)
class Broadcast:
    """Hand the root's tensor to every worker; what the others bring gives shape and dtype only."""

    x: Tensor
    root: int
    in_place: ClassVar[bool] = True
    kind: ClassVar[str] = "Broadcast"
    axis: ClassVar[None] = None
    in_rows: ClassVar[bool] = False

    @property
    def options(self) -> str:
        """The root."""
        return f", root={self.root}"

    @property
    def family(self) -> Hashable:
        """Of one dtype and root."""
        return self.kind, self.root, self.x.dtype, self.x.device

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return put(self)

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

    def senders(self, size: int) -> Sequence[int]:
        """The root."""
        return (self.root,)

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """A copy of the root's x, or of x."""
        return (sent[0].x if sent else self.x).clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Sum the root's bits with the others' zeros, and the flags behind them: any worker may have one to set.

        i32[m + 1], the message padded to whole words. None above 64 KiB: such a sum makes twice the bytes in all.
        """
        self.check(size)
        if self.x.nbytes > SUMMED:
            return None
        octets = self.x.reshape(-1).view(torch.uint8)
        words = torch.nn.functional.pad(octets, (0, -len(octets) % 4)).view(torch.int32)
        brought = words if rank == self.root else torch.zeros_like(words)
        return AllReduce(brought, partial=True).carrying(flag, tag, size)

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
    options: ClassVar[str] = ""
    in_rows: ClassVar[bool] = True

    @property
    def family(self) -> Hashable:
        """Bytes are alike."""
        return self.kind, self.x.device

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return put(self)

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

    def senders(self, size: int) -> Sequence[int]:
        """All."""
        return range(size)

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """What the senders have for the first worker, or a copy of x."""
        return torch.stack([ask.x[0] for ask in sent]) if sent else self.x.clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Append one byte to every row: the flag in its lowest bit, the tag in the others."""
        return AllToAll(torch.cat([self.x, self.x.new_full((len(self.x), 1), flag + 2 * tag)], 1))

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """The last byte of every row is a flag and a tag."""
        return without_last(answer), flag_of(answer[:, -1], tag)


Plain: TypeAlias = AllReduce | AllGather | Broadcast | AllToAll
"""An ask among all workers."""


def _children(place: int, size: int) -> int:
    """Children of a place in a binomial tree of `size` places rooted at 0."""
    rounds = range((size - 1).bit_length())
    return sum(place < 1 << i and place + (1 << i) < size for i in rounds)
