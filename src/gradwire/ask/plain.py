"""The four collectives among all workers."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from gradwire.ask.collective import describe, put
from gradwire.ask.flags import (
    EXACT_BITS,
    MAX_FLAGGED_BROADCAST,
    any_flag_in_bytes,
    any_flag_in_sum,
    drop_last_column,
    tag_offset,
)

if TYPE_CHECKING:
    from gradwire.ask.among import Ask

Op: TypeAlias = Literal["sum", "max"]
"""How an AllReduce combines values."""


@dataclass(frozen=True)
class AllReduce:
    """Combine floats or integers of any shape over the workers, by sum or max. The answer has x's shape and dtype.

    Args:
        x: the worker's tensor.
        op: "sum" or "max".
        spare: the worker does not read x again, so the answer may overwrite it.
        partial: x is one worker's part of a message, with zeros elsewhere, so the answer needs every worker's own x.

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
        """True unless x is `spare`."""
        return not self.spare

    def __post_init__(self) -> None:
        if self.op not in ("sum", "max"):
            raise ValueError(f"AllReduce combines by 'sum' or 'max', got op={self.op!r}")

    @property
    def options(self) -> str:
        """The op, unless it is "sum"."""
        return "" if self.op == "sum" else f", op={self.op!r}"

    @property
    def family(self) -> Hashable:
        """Joinable if op, `partial`, dtype and device are equal."""
        return self.kind, self.op, self.partial, self.x.dtype, self.x.device

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return put(self)

    def bringing(self, x: Tensor) -> Ask:
        """The same ask of another x."""
        return replace(self, x=x)

    def check(self, size: int) -> None:
        """Accept any shape."""

    def brought(self, rank: int | slice) -> int:
        """Return the bytes of x."""
        return self.x.nbytes

    def traffic(self, rank: int | slice, size: int) -> float:
        """Return 2 (n - 1) / n of x's bytes: ring all-reduce."""
        return 2 * (size - 1) / size * self.x.nbytes

    def busiest(self, size: int) -> float:
        """Return the traffic, which is the same for all ranks."""
        return self.traffic(0, size)

    def arriving(self, size: int) -> float:
        """Return the traffic: a ring receives as many bytes as it sends."""
        return self.traffic(0, size)

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """Combine the workers' x in the order of ranks."""
        combined = asks[0].x.clone()
        for ask in asks[1:]:
            if self.op == "sum":
                combined.add_(ask.x)
            else:
                torch.maximum(combined, ask.x, out=combined)
        return [combined.clone() for _ in asks]

    def batched(self, size: int) -> Tensor:
        """Combine the rows in x's dtype."""
        return self.x.sum(0, dtype=self.x.dtype) if self.op == "sum" else self.x.amax(0)

    def senders(self, size: int) -> Sequence[int]:
        """Return all ranks if x is partial, else none."""
        return range(size) if self.partial else ()

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """Return the senders' combined x, or, without them, `size` times x for a sum and x for a maximum."""
        if sent:
            return self.answers(sent)[0]
        return self.x * size if self.op == "sum" else self.x.clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Append the flag (0 or 1) to the flattened x, for a sum with the tag's offset.

        Returns None for integers below 32 bits, which could overflow.
        """
        if not self.x.is_floating_point() and self.x.dtype not in (torch.int32, torch.int64):
            return None
        flat = self.x.reshape(-1)
        return replace(self, x=torch.cat([flat, flat.new_full((1,), flag + self._mark(tag, size))]), spare=True)

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """Split off the last number, which, less all tags, is above 0 if any worker's flag is set."""
        combined = answer[:-1].view(self.x.shape)
        if self.op == "max":
            return combined, bool(answer[-1] > 0)
        return combined, any_flag_in_sum(answer[-1:], self._mark(tag, size), size)

    def _mark(self, tag: int, size: int) -> int:
        """Return the tag's offset; 0 for a maximum, from which the workers' tags cannot be checked."""
        return tag_offset(tag, size, EXACT_BITS.get(self.x.dtype, 24)) if self.op == "sum" else 0


@dataclass(frozen=True)
class AllGather:
    """Send every worker's bytes u8[m] to every worker. The answer is u8[n, m], in the order of ranks."""

    x: Tensor
    in_place: ClassVar[bool] = False
    kind: ClassVar[str] = "AllGather"
    axis: ClassVar[None] = None
    options: ClassVar[str] = ""
    in_rows: ClassVar[bool] = True

    @property
    def family(self) -> Hashable:
        """Joinable if the device is equal."""
        return self.kind, self.x.device

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return put(self)

    def bringing(self, x: Tensor) -> Ask:
        """Return the same ask with another x."""
        return replace(self, x=x)

    def check(self, size: int) -> None:
        """Accept any length."""

    def brought(self, rank: int | slice) -> int:
        """Return the bytes of x."""
        return self.x.nbytes

    def traffic(self, rank: int | slice, size: int) -> float:
        """Return n - 1 times x's bytes: ring all-gather."""
        return (size - 1) * self.x.nbytes

    def busiest(self, size: int) -> float:
        """Return the traffic, which is the same for all ranks."""
        return self.traffic(0, size)

    def arriving(self, size: int) -> float:
        """Return the traffic: a ring receives as many bytes as it sends."""
        return self.traffic(0, size)

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """Return all workers' bytes u8[n, m] for every worker."""
        gathered = torch.stack([ask.x for ask in asks])
        return [gathered.clone() for _ in asks]

    def batched(self, size: int) -> Tensor:
        """Return the rows as they are."""
        return self.x

    def senders(self, size: int) -> Sequence[int]:
        """Return all ranks."""
        return range(size)

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """Return the senders' bytes u8[n, m], or `size` copies of x."""
        return torch.stack([ask.x for ask in sent]) if sent else self.x.expand(size, *self.x.shape).clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Append one byte: the flag in its lowest bit, the tag in the other bits."""
        return AllGather(torch.cat([self.x, self.x.new_full((1,), flag + 2 * tag)]))

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """Split off the last byte of every row, which holds a flag and a tag."""
        return drop_last_column(answer), any_flag_in_bytes(answer[:, -1], tag)


@dataclass(frozen=True)
class Broadcast:
    """Send the root's tensor to every worker; the other workers' x give shape and dtype only."""

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
        """Joinable if root, dtype and device are equal."""
        return self.kind, self.root, self.x.dtype, self.x.device

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return put(self)

    def bringing(self, x: Tensor) -> Ask:
        """Return the same ask with another x."""
        return replace(self, x=x)

    def check(self, size: int) -> None:
        """Refuse a root that is not a rank (ValueError)."""
        if not 0 <= self.root < size:
            raise ValueError(f"a broadcast among {size} workers needs a root from 0 to {size - 1}, got {self.root}")

    def brought(self, rank: int | slice) -> int:
        """Return the bytes of x for the root, and 0 for the other ranks."""
        if isinstance(rank, slice):
            return self.x[self.root].nbytes
        return self.x.nbytes if rank == self.root else 0

    def traffic(self, rank: int | slice, size: int) -> float:
        """Return x's bytes once for every child of the rank in the tree: binomial broadcast."""
        if isinstance(rank, slice):
            return (size - 1) * self.x[self.root].nbytes
        return _children((rank - self.root) % size, size) * self.x.nbytes

    def busiest(self, size: int) -> float:
        """Return the root's traffic."""
        return self.traffic(self.root, size)

    def arriving(self, size: int) -> float:
        """Return the bytes of x, which arrive once."""
        return self.x.nbytes if size > 1 else 0

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """Return a copy of the root's tensor for every worker."""
        return [asks[self.root].x.clone() for _ in asks]

    def batched(self, size: int) -> Tensor:
        """Return a copy of the root's row."""
        return self.x[self.root].clone()

    def senders(self, size: int) -> Sequence[int]:
        """Return the root."""
        return (self.root,)

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """Return a copy of the root's x, or, without it, of this worker's."""
        return (sent[0].x if sent else self.x).clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Return a sum i32[m + 1] of the root's words, padded with zero bytes, and the flags; other ranks send zeros.

        It is a sum because every worker may set a flag. Returns None above 64 KiB: a sum makes twice the traffic.
        """
        self.check(size)
        if self.x.nbytes > MAX_FLAGGED_BROADCAST:
            return None
        flat = self.x.reshape(-1).view(torch.uint8)
        words = torch.nn.functional.pad(flat, (0, -len(flat) % 4)).view(torch.int32)
        brought = words if rank == self.root else torch.zeros_like(words)
        return AllReduce(brought, partial=True).carrying(flag, tag, size)

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """Return the root's message and whether any flag is set, from the sum."""
        words, any_flag = AllReduce(answer[:-1]).carried(answer, tag, size)
        return words.view(torch.uint8)[: self.x.nbytes].view(self.x.dtype).view(self.x.shape), any_flag


@dataclass(frozen=True)
class AllToAll:
    """Send row r of the bytes u8[n, m] to rank r. The answer is u8[n, m]: row r is what rank r sent to this worker."""

    x: Tensor
    in_place: ClassVar[bool] = False
    kind: ClassVar[str] = "AllToAll"
    axis: ClassVar[None] = None
    options: ClassVar[str] = ""
    in_rows: ClassVar[bool] = True

    @property
    def family(self) -> Hashable:
        """Joinable if the device is equal."""
        return self.kind, self.x.device

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        return put(self)

    def bringing(self, x: Tensor) -> Ask:
        """Return the same ask with another x."""
        return replace(self, x=x)

    def check(self, size: int) -> None:
        """Refuse an x without one row per worker (ValueError)."""
        if self.x.ndim < 2 or self.x.shape[-2] != size:
            raise ValueError(f"an all-to-all brings one row for each of {size} workers, got {describe(self)}")

    def brought(self, rank: int | slice) -> int:
        """Return the bytes of x, including the worker's own row."""
        return self.x.nbytes

    def traffic(self, rank: int | slice, size: int) -> float:
        """Return the bytes of all rows but the worker's own: direct messages."""
        return (size - 1) / size * self.x.nbytes

    def busiest(self, size: int) -> float:
        """Return the traffic, which is the same for all ranks."""
        return self.traffic(0, size)

    def arriving(self, size: int) -> float:
        """Return the traffic: a rank receives as many bytes as it sends."""
        return self.traffic(0, size)

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """Return row r of every worker's x for worker r."""
        routed = torch.stack([ask.x for ask in asks], 1)
        return [received.clone() for received in routed]

    def batched(self, size: int) -> Tensor:
        """Return [n, n, m] with senders and receivers transposed."""
        return self.x.transpose(0, 1).clone()

    def senders(self, size: int) -> Sequence[int]:
        """Return all ranks."""
        return range(size)

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """Return the senders' rows for the first worker, or a copy of x."""
        return torch.stack([ask.x[0] for ask in sent]) if sent else self.x.clone()

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Append one byte to every row: the flag in its lowest bit, the tag in the other bits."""
        return AllToAll(torch.cat([self.x, self.x.new_full((len(self.x), 1), flag + 2 * tag)], 1))

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """Split off the last byte of every row, which holds a flag and a tag."""
        return drop_last_column(answer), any_flag_in_bytes(answer[:, -1], tag)


Plain: TypeAlias = AllReduce | AllGather | Broadcast | AllToAll
"""A collective among all workers."""


def _children(place: int, size: int) -> int:
    """Return the number of children of node `place` in a binomial tree of `size` nodes rooted at 0."""
    rounds = range((size - 1).bit_length())
    return sum(place < 1 << i and place + (1 << i) < size for i in rounds)
