"""What every door counts: as one line of text, and as scalars for writers of curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from gradwire.checks import check_whole
from gradwire.doors.stepping import trains, weakly
from gradwire.exchange import Exchange
from gradwire.reprs import describe
from gradwire.transport.ledger import Ledger
from gradwire.transport.process import Process


class Counted(Protocol):
    """The part of a door that is read here."""

    @property
    def exchange(self) -> Exchange | None:
        """What averages; None where DDP does."""
        ...

    @property
    def process(self) -> Process:
        """This rank among those that average."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Bytes sent."""
        ...

    @property
    def seconds(self) -> float:
        """Seconds spent."""
        ...

    @property
    def step(self) -> int:
        """Exchanges so far."""
        ...

    @property
    def skipped(self) -> int:
        """Of those, how many changed no memory."""
        ...


def in_a_line(door: Counted, what: str) -> str:
    """What a door runs, where, and how far it is: `<Hook: ef(topk(density=0.01)), rank 0 of 2, step 120, ...>`."""
    place = f"rank {door.process.rank} of {door.process.size}"
    counted = f"step {door.step}, {door.skipped} skipped, {door.ledger.bytes / 1e6:.3g} MB sent"
    fewer = f", {door.ledger.ratio:.3g} times fewer than dense" if door.ledger.bytes else ""
    closed = ", closed" if door.process.closed else ""
    return f"<{type(door).__name__}: {what}, {place}, {counted}{fewer}{closed}>"


def named(exchange: Exchange | None) -> str:
    """An exchange as somebody would write it."""
    return "dense" if exchange is None else describe(exchange)


def scalars(door: Counted) -> dict[str, float]:
    """The counters by name, since the start or since the group last changed."""
    ledger = door.ledger
    return {
        "gradwire/step": float(door.step),
        "gradwire/skipped": float(door.skipped),
        "gradwire/megabytes": ledger.bytes / 1e6,
        "gradwire/megabytes_dense": ledger.dense / 1e6,
        "gradwire/seconds": door.seconds,
        "gradwire/seconds_network": ledger.seconds,
    }


class Log:
    """Write a door's scalars to a writer, every so many steps of its optimizer.

    Args:
        door: whose counters are written.
        params: what its optimizer trains.
        writer: has `add_scalar` (TensorBoard), `log_metrics` (MLflow, Lightning's loggers) or `log` (W&B).
        every: steps.
        now: tells the step.

    Raises:
        TypeError: a writer that has none of these.
        ValueError: `every` is no whole number of steps.
    """

    def __init__(
        self, door: Counted, params: Iterable[Tensor], writer: object, every: int, now: Callable[[], int]
    ) -> None:
        check_whole("every", every)
        self._door, self._every, self._now, self._last = door, every, now, now()
        self._write = _way(writer)
        self._params = frozenset(map(id, params))
        self._handle = weakly(register_optimizer_step_post_hook, self._after_step)

    def detach(self) -> None:
        """Write no more."""
        self._handle.remove()

    def _after_step(self, optimizer: Optimizer) -> None:
        step = self._now()
        if step - self._last >= self._every and trains(optimizer, self._params):
            self._last = step
            self._write(scalars(self._door), step)


def _way(writer: Any) -> Callable[[dict[str, float], int], None]:
    """How a writer takes scalars (TypeError)."""
    if callable(getattr(writer, "add_scalar", None)):
        return lambda values, step: _one_by_one(writer, values, step)
    if callable(getattr(writer, "log_metrics", None)):
        return lambda values, step: writer.log_metrics(values, step=step)
    if callable(getattr(writer, "log", None)):  # W&B refuses steps that go back behind the caller's own
        return lambda values, _: writer.log(values)
    raise TypeError(f"log_to takes a writer with add_scalar, log_metrics or log, got {writer!r}")


def _one_by_one(writer: Any, values: dict[str, float], step: int) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, step)
