"""What every ask has: all that there is to know about its collective."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from gradwire.ask.among import Ask, Axis


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

    @property
    def options(self) -> str:
        """What else all workers must ask alike, as `describe` writes it."""
        ...

    @property
    def in_rows(self) -> bool:
        """Whether asks are joined row by row, as bytes for several receivers are, instead of flat."""
        ...

    @property
    def family(self) -> Hashable:
        """Asks of one family can be joined to one message."""
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

    def senders(self, size: int) -> Sequence[int]:
        """Ranks whose x the first worker's answer holds as it was sent; none where what is brought is combined."""
        ...

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """Answer the first worker by the `senders`' asks; without them as if all workers brought what it brings."""
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


def put(ask: Ask) -> Generator[Ask, Tensor, Tensor]:
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


def describe(ask: Ask) -> str:
    """Describe an ask in a few words, for error messages: `AllReduce(float32[10])`."""
    among = "" if ask.axis is None else f" among {ask.axis.size} workers, {ask.axis.stride} apart"
    return f"{ask.kind}({str(ask.x.dtype).removeprefix('torch.')}{list(ask.x.shape)}{ask.options}){among}"
