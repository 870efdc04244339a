"""Every door's counters, as one line of text and as scalars for TensorBoard and similar writers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from gradwire.checks import check_whole
from gradwire.doors.stepping import register_weakly, trains
from gradwire.exchange import Exchange
from gradwire.reprs import describe
from gradwire.transport.ledger import Ledger
from gradwire.transport.process import Process


class Counted(Protocol):
    """The attributes of a door that are read here."""

    @property
    def exchange(self) -> Exchange | None:
        """The exchange that averages; None if DDP averages by itself."""
        ...

    @property
    def process(self) -> Process:
        """The transport: this rank in the group that averages."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Bytes sent."""
        ...

    @property
    def seconds(self) -> float:
        """Seconds spent on exchanges."""
        ...

    @property
    def step(self) -> int:
        """Exchanges so far."""
        ...

    @property
    def skipped(self) -> int:
        """Exchanges that changed no memory, because a value was not finite."""
        ...


def one_line(door: Counted, what: str) -> str:
    """Describe a door and its progress: `<Hook: ef(topk(density=0.01)), rank 0 of 2, step 120, ...>`."""
    place = f"rank {door.process.rank} of {door.process.size}"
    counted = f"step {door.step}, {door.skipped} skipped, {door.ledger.bytes / 1e6:.3g} MB sent"
    fewer = f", {door.ledger.ratio:.3g} times fewer than dense" if door.ledger.bytes else ""
    closed = ", closed" if door.process.closed else ""
    return f"<{type(door).__name__}: {what}, {place}, {counted}{fewer}{closed}>"


def named(exchange: Exchange | None) -> str:
    """Return the spec of an exchange as a user would write it; "dense" for None."""
    return "dense" if exchange is None else describe(exchange)


def scalars(door: Counted) -> dict[str, float]:
    """Return the counters by name, since the start or since the group last changed."""
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
    """Write a door's scalars to a writer every `every` steps.

    Args:
        door: the door whose counters are written.
        params: the parameters that its optimizer trains.
        writer: has `add_scalar` (TensorBoard), `log_metrics` (MLflow, Lightning's loggers) or `log` (W&B).
        every: steps between two writes.
        now: returns the current step.

    Raises:
        TypeError: the writer has none of these methods.
        ValueError: `every` is not a whole number of at least 1.
    """

    def __init__(
        self, door: Counted, params: Iterable[Tensor], writer: object, every: int, now: Callable[[], int]
    ) -> None:
        check_whole("every", every)
        self._door, self._every, self._now, self._last = door, every, now, now()
        self._write = _writing(writer)
        self._params = frozenset(map(id, params))
        self._handle = register_weakly(register_optimizer_step_post_hook, self._after_step)

    def detach(self) -> None:
        """Stop writing."""
        self._handle.remove()

    def _after_step(self, optimizer: Optimizer) -> None:
        step = self._now()
        if step - self._last >= self._every and trains(optimizer, self._params):
            self._last = step
            self._write(scalars(self._door), step)


def _writing(writer: Any) -> Callable[[dict[str, float], int], None]:
    """Return the function that writes scalars to this writer (TypeError)."""
    if callable(getattr(writer, "add_scalar", None)):
        return lambda values, step: _add_scalars(writer, values, step)
    if callable(getattr(writer, "log_metrics", None)):
        return lambda values, step: writer.log_metrics(values, step=step)
    if callable(getattr(writer, "log", None)):  # W&B refuses a step below the caller's own, so none is given
        return lambda values, _: writer.log(values)
    raise TypeError(f"log_to takes a writer with add_scalar, log_metrics or log, got {writer!r}")


def _add_scalars(writer: Any, values: dict[str, float], step: int) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, step)
