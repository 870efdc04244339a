"""Local steps: every rank's optimizer runs by itself, and the models are synchronised at the end of each round.

    the optimizer's step post-hook counts -> a round is over -> x = anchor - parameters is exchanged -> the outer step
    moves the anchor -> the parameters follow it

The training loop, its gradients and the optimizer's state do not change. Ranks count their own steps, and exchanges are
numbered. So a rank whose GradScaler has skipped a step reaches the end of its round later, and the others wait there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

from torch import Tensor
from torch.optim.optimizer import Optimizer

from gradwire.doors.counters import Log, named, one_line
from gradwire.doors.frozen import unfrozen
from gradwire.doors.group import Group, as_group
from gradwire.doors.position import check_position, moment
from gradwire.engine.anchored import Anchored, CatchUp
from gradwire.engine.rounds import Outcome, Rounds
from gradwire.exchange import Exchange, State
from gradwire.layout import Layout
from gradwire.outer import Outer
from gradwire.outer.every import Every
from gradwire.reprs import describe
from gradwire.transport.ledger import Ledger
from gradwire.transport.process import Process


@dataclass(frozen=True)
class Schedule:
    """When fragments are exchanged, and how local steps taken during an exchange count (see `local`)."""

    every: Every
    delay: int
    catch_up: CatchUp


@dataclass(frozen=True)
class _Pending:
    """An exchange under way: its fragment, the local step at which its mean is needed, and whether it has a copy."""

    fragment: int
    arrives: int
    outcome: Future[Outcome]
    held: bool


class Local:
    """Running local training, returned by `gradwire.local`. As a context manager it calls `finish`, then `close`.

    Args:
        rounds: the engine that exchanges differences.
        optimizer: the optimizer whose steps are counted.
        schedule: when fragments are exchanged.
        part: (index, count): this rank exchanges part `index` of `count` of the model; (0, 1) unless it is sharded.
        written: called after the parameters were written; None if nobody needs to know.
        frozen: the model's frozen parameters by name; they are not exchanged.
    """

    def __init__(
        self,
        rounds: Rounds,
        optimizer: Optimizer,
        schedule: Schedule,
        part: tuple[int, int] = (0, 1),
        written: Callable[[], None] | None = None,
        frozen: Sequence[tuple[str, Tensor]] = (),
    ) -> None:
        self.engine, self.schedule, self.part, self._written = rounds, schedule, part, written
        self.local_steps, self.seconds, self._event = 0, 0.0, 0
        self._due = schedule.every.gap(0, rounds.fragments, 0)
        self._pending: deque[_Pending] = deque()
        self._settled = [0] * rounds.fragments
        self._handle = optimizer.register_step_post_hook(self._after_step)
        self._params = [param for group in optimizer.param_groups for param in group["params"]]
        self._nbytes = sum(unit.layout.d * unit.dtype.itemsize for unit in rounds.all_units())
        self._logs: list[Log] = []
        self._frozen = frozen

    @property
    def exchange(self) -> Exchange:
        """The exchange that averages the differences."""
        return self.engine.exchange

    @property
    def outer(self) -> Outer:
        """The outer step that moves the anchor by the mean difference."""
        return self.engine.outer

    @property
    def ledger(self) -> Ledger:
        """Bytes this rank has sent, per kind of ask, and the seconds it waited for the network."""
        return self.engine.ledger

    @property
    def process(self) -> Process:
        """The door's own process group as a transport, with `rank` and `size`."""
        return self.engine.process

    @property
    def step(self) -> int:
        """Exchanges so far: one per round and fragment."""
        return self.engine.step

    @property
    def skipped(self) -> int:
        """Exchanges that changed nothing because some rank's parameters were not finite."""
        return self.engine.skipped

    @property
    def seed(self) -> int:
        """The seed of all randomness in the exchange."""
        return self.engine.seed

    @property
    def layouts(self) -> list[Layout]:
        """The layouts of the units, fragment by fragment."""
        return [unit.layout for unit in self.engine.all_units()]

    def finish(self) -> bool:
        """End the round now, so that all ranks hold the same model, as before an evaluation or at the end of training.

        Every rank calls it, after any number of local steps. If no rank has taken a step since the last exchange, no
        exchange runs.

        Returns:
            False if some rank's parameters were not finite. Then the models still differ.
        """
        if self.engine.session.closed:
            raise RuntimeError("these local steps are closed: finish the round before close")
        started = time.perf_counter()
        while self._pending:
            self._arrive()
        fragments, ended, moved = self.engine.fragments, 0, list[bool]()
        while ended < fragments:  # ranks that are not at their end yet take part in these exchanges at their own pace
            self._submit(last=True)
            outcome = self._arrive()
            moved.append(outcome.moved)
            ended = ended + 1 if outcome.last else 0
        self._plan()
        self.seconds += time.perf_counter() - started
        return all(moved[-fragments:])

    def restart(self) -> None:
        """Begin a round with the model's current parameters, after other code has written them (loaded weights).

        Without it the next exchange restores the parameters of the round before. Every rank calls it between steps,
        with the same model. Memory and outer state begin anew; an exchange under way is discarded.

        Raises:
            ValueError: the ranks' models differ; then anchors and memories have not changed.
        """
        self.engine.session.lane.result(self.engine.restart)
        self._pending.clear()
        self.engine.buffers.catch_up(moved=False)
        self._settled = [self.local_steps] * self.engine.fragments
        self._plan()

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Copy the state, every tensor under its parameter's name. Each rank saves its own, between steps.

        It also holds this rank's parameters, which differ from other ranks' in the middle of a round. It consists of
        tensors, numbers and strings only, so `torch.load(..., weights_only=True)` reads it. The caller saves each
        rank's own optimizer state. The call waits for an exchange under way.

        With `copy=False` the tensors are the model's and the engine's own memory; write them to a file before the next
        step.

        Raises:
            RuntimeError: an exchange has failed.
        """
        state = self.engine.session.lane.result(lambda: self.engine.snapshot(held=self._holds, copy=copy))
        arrivals = [[number.fragment, number.arrives] for number in self._pending if number.outcome.result().moved]
        position = {
            "local_steps": self.local_steps,
            "due": self._due,
            "arrivals": arrivals,
            "settled": list(self._settled),
            "buffers": self.engine.buffers.pending(),
        }
        return state | {"local": self._terms() | position}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a `state_dict`, also one from the middle of a round. The parameters are overwritten too.

        Every rank calls it between steps, with its own checkpoint or a merged one. The run is bit-equal if settings,
        ranks and optimizer states are equal.

        Raises:
            ValueError: the checkpoint does not fit, another rank has refused its own, or the ranks' checkpoints are of
                different steps, seeds or runs. Then nothing has changed on any rank.
        """
        self.engine.session.lane.result(lambda: self._load(saved))

    def regroup(self, group: Group) -> None:
        """Continue with the ranks of another group, after some have left (a failed exchange) or others have joined.

        Every rank of the new group calls it between two steps; a rank that joins first calls `local` alone, with
        `group=gradwire.Members()`. Ranks that stay continue from the anchor of the rank that was furthest, each with
        its own parameters, so none of their local steps is lost. Ranks that join start with that anchor and that rank's
        buffers; the caller copies the optimizer's state. Memories keep what `Hook.regroup` keeps. A new round begins,
        and the ledger restarts at 0.

        Raises:
            ValueError: the ranks disagree; then anchors and memories have not changed.
        """
        group = as_group(group, "regroup")
        self._end_pending()
        found = self.engine.regroup(group, self.local_steps)
        if found.joined:
            self.local_steps = found.progress[-1]
            self._catch_up(self.engine.all_units(), "drop", moved=True)
        self._event = self.engine.step
        self._plan()

    def log_to(self, writer: object, every: int = 100) -> None:
        """Write the counters to a TensorBoard, W&B or MLflow writer every `every` local steps, until `close`.

        One rank calls it, or each rank with its own writer; it sends no message. See `doors.counters.Log`.
        """
        self._logs.append(Log(self, self._params, writer, every, lambda: self.local_steps))

    def close(self) -> None:
        """End the thread and the process group. Call it before `destroy_process_group`; program exit also closes it.

        The counters stay readable. The optimizer continues without exchanges.
        """
        self._handle.remove()
        for log in self._logs:
            log.detach()
        self.engine.close()

    def __repr__(self) -> str:
        rounds = f"{named(self.exchange)} every {self.schedule.every.steps} steps, {describe(self.outer)}"
        return one_line(self, f"{rounds}, {self.local_steps} local steps")

    def __enter__(self) -> Local:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and not self.engine.session.closed:
                self.finish()
        finally:
            self.close()

    # ---- rounds

    def _after_step(self, *_: Any) -> None:
        """Count a step of the optimizer, and receive and submit the exchanges that are due."""
        started = time.perf_counter()
        self.local_steps += 1
        self.ledger.dense += self._nbytes  # what averaging dense gradients at every step would send
        while self._pending and self._pending[0].arrives <= self.local_steps:
            self._arrive()
        if self.local_steps >= self._due:
            self._check_frozen()
            self._submit(last=False)
            if not self.schedule.delay:
                self._arrive()
            self._plan()
        self.seconds += time.perf_counter() - started

    def _check_frozen(self) -> None:
        """Raise RuntimeError if a parameter has been unfrozen: it would differ between the ranks."""
        if (name := unfrozen(self._frozen)) is not None:
            raise RuntimeError(
                f"parameter {name!r} was frozen when local steps began, and is trainable now: finish the round and "
                "close before you unfreeze, and call gradwire.local again"
            )

    def _submit(self, *, last: bool) -> None:
        """Submit the next exchange to the session's thread, after any earlier one of the same fragment has ended."""
        fragment = self._event % self.engine.fragments
        while any(pending.fragment == fragment for pending in self._pending):
            self._arrive()
        held = self.schedule.delay > 0 and not last
        if held:
            for unit in self.engine.units[fragment]:
                unit.hold()
            if fragment == 0:
                self.engine.buffers.hold()
        idle = self._settled[fragment] == self.local_steps
        outcome = self.engine.session.lane.future(lambda: self.engine.run(last=last, idle=idle))
        self._pending.append(_Pending(fragment, self.local_steps + self.schedule.delay, outcome, held))
        self._event += 1

    def _arrive(self) -> Outcome:
        """Wait for the oldest exchange under way, and move its fragment's parameters as the schedule says."""
        pending = self._pending.popleft()
        fragment = pending.fragment
        try:
            outcome = pending.outcome.result()
        except Exception:
            self._catch_up(self.engine.finished(), self.schedule.catch_up, moved=True)
            raise
        self._catch_up(self.engine.units[fragment], self.schedule.catch_up, moved=outcome.moved)
        if fragment == 0:
            self.engine.buffers.catch_up(moved=outcome.moved)
        if outcome.moved and (not pending.held or self.schedule.catch_up == "drop"):
            self._settled[fragment] = self.local_steps
        return outcome

    def _catch_up(self, units: Sequence[Anchored], how: CatchUp, *, moved: bool) -> None:
        """Move parameters towards their anchors, then call `written`, so that FSDP2 frees its gathered copies."""
        for unit in units:
            unit.catch_up(how, moved=moved)
        if self._written is not None:
            self._written()

    def _end_pending(self) -> None:
        """Wait for the exchanges under way. Failures are ignored: they are why ranks regroup."""
        while self._pending:
            with suppress(Exception):
                self._arrive()
        for unit in self.engine.all_units():
            unit.held = None
        self.engine.buffers.catch_up(moved=False)

    def _plan(self) -> None:
        """Set the local step of the next exchange."""
        self._due = self.local_steps + self.schedule.every.gap(self._event, self.engine.fragments, self.local_steps)

    # ---- checkpoints

    @property
    def _holds(self) -> bool:
        """Whether a checkpoint needs the copies made at the start of an exchange (`Anchored.held`)."""
        return self.schedule.catch_up == "add" and self.schedule.delay > 0

    def _terms(self) -> dict[str, Any]:
        """Return the settings that a checkpoint and this run must share."""
        schedule = self.schedule
        terms = {"outer": self.outer, "every": schedule.every, "delay": schedule.delay, "catch_up": schedule.catch_up}
        return {name: repr(value) for name, value in terms.items()} | {"fragments": repr(self.engine.fragments)}

    def _load(self, saved: dict[str, Any]) -> None:
        """Load a checkpoint in the session's thread (ValueError); an exchange that was under way counts as received."""
        states, buffers = self.engine.session.load(saved, lambda: self._prepare(saved), moment)
        position = saved["local"]
        self.engine.load(saved, states)
        if self._written is not None:
            self._written()
        self.local_steps, self._due, self._event = position["local_steps"], position["due"], saved["step"]
        self._settled = list(position["settled"])
        done = Future[Outcome]()
        done.set_result(Outcome(moved=True, last=False))
        self._pending = deque(
            _Pending(fragment, arrives, done, held=True) for fragment, arrives in position["arrivals"]
        )
        self.engine.buffers.resume(buffers)
        waiting = {pending.fragment for pending in self._pending}
        for fragment, units in enumerate(self.engine.units):
            for unit in units:
                if fragment not in waiting:
                    unit.held = None
                elif not self._holds:
                    unit.hold()  # `catch_up` reads no values of the copy, only that there is one

    def _prepare(self, saved: dict[str, Any]) -> tuple[list[State], list[Tensor]]:
        """Check a checkpoint and read it into new tensors (ValueError)."""
        position = saved.get("local") if isinstance(saved, dict) else None
        if not isinstance(position, dict):
            raise ValueError("this is not a checkpoint of gradwire.local")
        for name, mine in self._terms().items():
            if position.get(name) != mine:
                raise ValueError(f"the checkpoint is of {name}={position.get(name)}, this run has {name}={mine}")
        check_position(cast(dict[str, Any], position), self.engine.fragments)
        plain = {name: value for name, value in saved.items() if name != "local"}
        buffers = self.engine.buffers.prepare(position.get("buffers"))
        return self.engine.prepare(plain, held=self._holds), buffers
