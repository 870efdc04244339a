"""The public face of every door for gradients: what `gradwire.attach` returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from gradwire.doors.counters import Log, in_a_line, named
from gradwire.doors.group import Group, as_group
from gradwire.engine import Engine
from gradwire.exchange import Exchange
from gradwire.layout import Layout
from gradwire.transport.ledger import Ledger
from gradwire.transport.process import Process


class Hook:
    """A running exchange: its counters, its state, its end. Works as a context manager that closes it.

    Args:
        engine: what runs it.
        no_sync: makes the context in which backward passes only accumulate.
        detach: remove the door's own hooks from the model and its optimizers.
        forget: makes the door take the next gradient for the first of a pass; None if its group cannot be replaced.
    """

    def __init__(
        self,
        engine: Engine,
        no_sync: Callable[[], AbstractContextManager[None]],
        detach: Sequence[Callable[[], None]],
        forget: Callable[[], None] | None = None,
    ) -> None:
        self.engine, self._no_sync, self._detach, self._forget = engine, no_sync, detach, forget

    @property
    def exchange(self) -> Exchange:
        """What averages the gradients, without the guard around it."""
        return self.engine.exchange

    @property
    def ledger(self) -> Ledger:
        """Bytes this rank has sent, per kind of ask, and the seconds it waited for the network."""
        return self.engine.ledger

    @property
    def process(self) -> Process:
        """The group of the hook's own, and this rank in it."""
        return self.engine.process

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the model this rank's group exchanges, and of how many: (0, 1) unless it is sharded."""
        return self.engine.part

    @property
    def seconds(self) -> float:
        """Seconds spent on gradients so far, the network included, while backward went on or waited."""
        return self.engine.seconds

    @property
    def step(self) -> int:
        """Gradient synchronisations so far; backward passes under `no_sync` do not count."""
        return self.engine.step

    @property
    def skipped(self) -> int:
        """Number of those that held a value that was not finite, and left the memory untouched."""
        return self.engine.skipped

    @property
    def seed(self) -> int:
        """The seed of all randomness in the exchange."""
        return self.engine.seed

    @property
    def layouts(self) -> list[Layout]:
        """What is exchanged together: one layout a unit, in the order in which units go to the network."""
        return [unit.layout for unit in self.engine.units]

    def no_sync(self) -> AbstractContextManager[None]:
        """Accumulate gradients locally in this context; the next backward pass outside of it exchanges their sum."""
        return self._no_sync()

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Copy the state: every tensor by the name of its parameter. Each rank saves its own.

        Holds tensors, numbers and strings only, so `torch.load(..., weights_only=True)` reads it. May be called at any
        time, from any thread or signal handler: during a backward pass it is the state before that pass, and so it is
        after a pass that failed.

        With `copy=False` the tensors are the hook's own memory: for what is written to a file before the next step.
        """
        return self.engine.snapshot(copy=copy)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: same exchange, parameters, units, rank and ranks give equal bits.

        Every rank calls it, with its own checkpoint or with a merged one, between steps.

        Raises:
            ValueError: in one sentence: the checkpoint does not fit, another rank has refused its own, or the ranks'
                checkpoints are of different steps, seeds or runs. Then nothing has changed on any rank.
        """
        self.engine.load(saved)

    def rollback(self) -> bool:
        """Restore memory and `step` from before the last backward pass, whose means must not be used afterwards.

        Call it before the optimizer's step and the next pass. A pass that fails is rolled back without it. Returns
        False if there is nothing to undo.
        """
        if self._forget is not None:
            self._forget()
        return self.engine.rollback()

    def regroup(self, group: Group) -> None:
        """Continue with the ranks of another group, after some have left or others have joined.

        Every rank of the new group calls it between two steps. Before that the caller copies parameters and the
        optimizer's state from a rank that is furthest to those that are behind; a rank that joins attaches alone first,
        with `group=gradwire.Members()`. A pass that was cut short or failed is void: memory is what it was before.
        Step, seed and replicated state become those of the rank that is furthest. Error feedback keeps what is owed to
        the mean, (1/n) sum e, except for what lost workers owed; all shifts become the mean shift. The ledger restarts
        at 0.

        Raises:
            ValueError: the model is wrapped in DDP, or the ranks do not agree; then nothing has changed.
        """
        if self._forget is None:
            raise ValueError(
                "DistributedDataParallel cannot change its ranks: attach gradwire to the bare module, or start again "
                "from a checkpoint"
            )
        self._forget()
        self.engine.regroup(as_group(group, "regroup"))

    def log_to(self, writer: object, every: int = 100) -> None:
        """Write the counters to a TensorBoard, W&B or MLflow writer every so many steps, until `close`.

        One rank calls it, or each with a writer of its own; nothing is sent for it. See `doors.counters.Log`.
        """
        params = (tensor for unit in self.engine.units for tensor in unit.tensors)
        self._detach = [*self._detach, Log(self, params, writer, every, lambda: self.step).detach]

    def close(self) -> None:
        """End the thread and the process group. Call it before `destroy_process_group`; the program's end does it too.

        The counters and `state_dict` stay readable; a backward pass that would need the hook raises RuntimeError.
        """
        self.engine.close()
        for detach in self._detach:
            detach()

    def __repr__(self) -> str:
        return in_a_line(self, named(self.exchange))

    def __enter__(self) -> Hook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
