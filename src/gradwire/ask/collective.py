"""The protocol of asks: everything that transports, ledgers and rehearsals need to know about a collective."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from gradwire.ask.among import Ask, Axis


class Collective(Protocol):
    """A collective, as a frozen record of one worker's part in it."""

    @property
    def x(self) -> Tensor:
        """The tensor that the worker sends."""
        ...

    @property
    def in_place(self) -> bool:
        """Whether torch's collective overwrites x although the worker may still read it, so that `Process` copies x."""
        ...

    @property
    def kind(self) -> str:
        """The name of the collective. The ledger counts bytes by it, and link models know its cost by it."""
        ...

    @property
    def axis(self) -> Axis | None:
        """The axis of the groups that take part; None for one group of all workers."""
        ...

    @property
    def options(self) -> str:
        """The other options that all workers must share, as `describe` writes them."""
        ...

    @property
    def in_rows(self) -> bool:
        """Whether asks are joined along x's last axis, with one row per sender or receiver, instead of flat."""
        ...

    @property
    def family(self) -> Hashable:
        """A key: asks with equal keys can be joined to one message."""
        ...

    def __await__(self) -> Generator[Ask, Tensor, Tensor]:
        """Yield the ask itself; the transport that runs the coroutine sends the answer."""
        ...

    def bringing(self, x: Tensor) -> Ask:
        """Return the same ask with another x."""
        ...

    def check(self, size: int) -> None:
        """Refuse an x that does not fit `size` workers (ValueError)."""
        ...

    def brought(self, rank: int | slice) -> int:
        """Return the bytes of x that a rank, or all ranks of a batch together, hand to the network."""
        ...

    def traffic(self, rank: int | slice, size: int) -> float:
        """Return the bytes sent on a rank's link, or on all links of a batch, by gloo's algorithms (see `Ledger`)."""
        ...

    def busiest(self, size: int) -> float:
        """Return the `traffic` of the rank that has most of it."""
        ...

    def arriving(self, size: int) -> float:
        """Return the bytes that arrive on a rank's link."""
        ...

    def answers(self, asks: Sequence[Ask]) -> list[Tensor]:
        """Answer the asks of all workers in one process, in the order of ranks; no two answers share memory."""
        ...

    def batched(self, size: int) -> Tensor:
        """Answer a batched ask, whose x has a leading axis of `size` workers."""
        ...

    def senders(self, size: int) -> Sequence[int]:
        """Return the ranks whose x appears unchanged in the first worker's answer; none if the x are combined."""
        ...

    def alone(self, size: int, sent: Sequence[Ask] = ()) -> Tensor:
        """Answer the first worker from the `senders`' asks, or, without them, as if all workers sent the same x."""
        ...

    def carrying(self, flag: bool, tag: int = 0, size: int = 1, rank: int = 0) -> Ask | None:
        """Return a rank's ask with a flag and a tag appended to its message; None if the message cannot carry them.

        The tag, from 0 to 127, identifies what the message is about, and must be the same on all workers.
        """
        ...

    def carried(self, answer: Tensor, tag: int = 0, size: int = 1) -> tuple[Tensor, bool]:
        """Split the answer to `carrying`: return the answer without flags, and whether any worker's flag is set.

        Raises:
            ValueError: another worker's message has another tag.
        """
        ...


def put(ask: Ask) -> Generator[Ask, Tensor, Tensor]:
    """Yield the ask, and return the answer that a transport sends.

    Raises:
        TypeError: an error was thrown in, as an event loop does that is given the ask (asyncio.run(exchange(...))).
    """
    try:
        return (yield ask)
    except Exception as error:
        raise TypeError(
            f"{describe(ask)} was awaited in an event loop, which cannot answer it: run the exchange in a Simulator or "
            "by lockstep(...), not by asyncio"
        ) from error


def describe(ask: Ask) -> str:
    """Describe an ask for error messages: `AllReduce(float32[10])`."""
    among = "" if ask.axis is None else f" among {ask.axis.size} workers, {ask.axis.stride} apart"
    return f"{ask.kind}({str(ask.x.dtype).removeprefix('torch.')}{list(ask.x.shape)}{ask.options}){among}"
