"""`Hook`: what `gradwire.attach` returns, the public interface of every door for gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from gradwire.doors.counters import Log, named, one_line
from gradwire.doors.group import Group, as_group
from gradwire.engine import Engine
from gradwire.exchange import Exchange
from gradwire.layout import Layout
from gradwire.transport.ledger import Ledger
from gradwire.transport.process import Process


class Hook:
    """A running exchange of gradients: its counters, its state and `close`. As a context manager it closes at the end.

    Args:
        engine: runs the exchange.
        no_sync: makes the context in which backward passes only accumulate.
        detach: functions that remove the door's own hooks from the model and its optimizers.
        forget: makes the door treat the next gradient as the first of a pass; None if its group cannot be replaced.
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
        """The exchange that averages the gradients, without the guard that the engine puts around it."""
        return self.engine.exchange

    @property
    def ledger(self) -> Ledger:
        """Bytes this rank has sent, per kind of ask, and the seconds it waited for the network."""
        return self.engine.ledger

    @property
    def process(self) -> Process:
        """The hook's own process group as a transport, with `rank` and `size`."""
        return self.engine.process

    @property
    def part(self) -> tuple[int, int]:
        """(index, count): this rank's group exchanges part `index` of `count` of the model; (0, 1) unless sharded."""
        return self.engine.part

    @property
    def seconds(self) -> float:
        """Seconds that the engine has spent on gradients so far, network included, whether backward waited or not."""
        return self.engine.seconds

    @property
    def step(self) -> int:
        """Gradient synchronisations so far; backward passes under `no_sync` do not count."""
        return self.engine.step

    @property
    def skipped(self) -> int:
        """Steps in which a value was not finite; they left the memory untouched."""
        return self.engine.skipped

    @property
    def seed(self) -> int:
        """The seed of all randomness in the exchange."""
        return self.engine.seed

    @property
    def layouts(self) -> list[Layout]:
        """The layouts of the units, in the order in which they are exchanged."""
        return [unit.layout for unit in self.engine.units]

    def no_sync(self) -> AbstractContextManager[None]:
        """Accumulate gradients locally in this context; the next backward pass outside of it exchanges their sum."""
        return self._no_sync()

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Copy the state, every tensor under its parameter's name. Each rank saves its own.

        It holds tensors, numbers and strings only, so `torch.load(..., weights_only=True)` reads it. It may be called
        at any time, from any thread or signal handler. During a backward pass, and after one that failed, it returns
        the state before that pass.

        With `copy=False` the tensors are the hook's own memory; write them to a file before the next step.
        """
        return self.engine.snapshot(copy=copy)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a `state_dict`. Every rank calls it between steps, with its own checkpoint or a merged one.

        The run is bit-equal if exchange, parameters, units, rank and number of ranks are the same.

        Raises:
            ValueError: the checkpoint does not fit, another rank has refused its own, or the ranks' checkpoints are of
                different steps, seeds or runs. Then nothing has changed on any rank.
        """
        self.engine.load(saved)

    def rollback(self) -> bool:
        """Restore memory and `step` from before the last backward pass, whose means must not be used afterwards.

        Call it before the optimizer's step and before the next pass. A pass that fails is rolled back automatically.
        Returns False if there is nothing to undo.
        """
        if self._forget is not None:
            self._forget()
        return self.engine.rollback()

    def regroup(self, group: Group) -> None:
        """Continue with the ranks of another group, after some have left or others have joined.

        Every rank of the new group calls it between two steps. Before that, the caller copies parameters and optimizer
        state from a rank with the most steps to those with fewer; a rank that joins first attaches alone, with
        `group=gradwire.Members()`. A pass that was cut short or failed is rolled back. Step, seed and replicated state
        become those of the rank with the most steps. Error feedback keeps the mean residual (1/n) sum e, except for
        the residuals of lost workers; all shifts become the mean shift. The ledger restarts at 0.

        Raises:
            ValueError: the model is wrapped in DDP, or the ranks disagree; then nothing has changed.
        """
        if self._forget is None:
            raise ValueError(
                "DistributedDataParallel cannot change its ranks: attach gradwire to the bare module, or start again "
                "from a checkpoint"
            )
        self._forget()
        self.engine.regroup(as_group(group, "regroup"))

    def log_to(self, writer: object, every: int = 100) -> None:
        """Write the counters to a TensorBoard, W&B or MLflow writer every `every` steps, until `close`.

        One rank calls it, or each rank with its own writer; it sends no message. See `doors.counters.Log`.
        """
        params = (tensor for unit in self.engine.units for tensor in unit.tensors)
        self._detach = [*self._detach, Log(self, params, writer, every, lambda: self.step).detach]

    def close(self) -> None:
        """End the thread and the process group. Call it before `destroy_process_group`; program exit also closes it.

        The counters and `state_dict` stay readable; a backward pass that would need the hook raises RuntimeError.
        """
        self.engine.close()
        for detach in self._detach:
            detach()

    def __repr__(self) -> str:
        return one_line(self, named(self.exchange))

    def __enter__(self) -> Hook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
