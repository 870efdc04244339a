"""Local steps: the optimizer runs on every rank by itself, and every so many steps the models are brought together.

    the optimizer's step post-hook counts -> a round is over -> x = anchor - parameters is exchanged -> the outer step
    moves the anchor -> the parameters follow it

The training loop, its gradients and the optimizer's state are not touched. A rank that takes fewer steps than others,
for its GradScaler has skipped one, reaches the end of its round later, and the others wait for it there: ranks count
their own steps, and exchanges are numbered.
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

from gradwire.doors.counters import Log, in_a_line, named
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
    """When fragments are exchanged, and how parameters that went on meanwhile catch up."""

    every: Every
    delay: int
    catch_up: CatchUp


@dataclass(frozen=True)
class _Pending:
    """An exchange under way: its fragment, and the local step at which its mean is needed."""

    fragment: int
    arrives: int
    outcome: Future[Outcome]
    held: bool


class Local:
    """What `gradwire.local` returns. Works as a context manager that finishes the last round and closes.

    Args:
        rounds: the engine.
        optimizer: the one whose steps are counted.
        schedule: when what happens.
        part: which part of the model this rank exchanges, and of how many; (0, 1) unless the model is sharded.
        written: is called when the parameters have been written; None where nothing follows from that.
        frozen: parameters of the model that are not exchanged, by name.
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
        self._nbytes = sum(unit.layout.d * unit.dtype.itemsize for unit in rounds.everything())
        self._logs: list[Log] = []
        self._frozen = frozen

    @property
    def exchange(self) -> Exchange:
        """What averages the differences."""
        return self.engine.exchange

    @property
    def outer(self) -> Outer:
        """What moves the anchor by their mean."""
        return self.engine.outer

    @property
    def ledger(self) -> Ledger:
        """Bytes this rank has sent, per kind of ask, and the seconds it waited for the network."""
        return self.engine.ledger

    @property
    def process(self) -> Process:
        """The group of the door's own, and this rank in it."""
        return self.engine.process

    @property
    def step(self) -> int:
        """Exchanges so far: one a round, or one a fragment and round."""
        return self.engine.step

    @property
    def skipped(self) -> int:
        """How many of those changed nothing, for some rank's parameters were not finite."""
        return self.engine.skipped

    @property
    def seed(self) -> int:
        """The seed of all randomness in the exchange."""
        return self.engine.seed

    @property
    def layouts(self) -> list[Layout]:
        """What is exchanged together: one layout a unit, fragment by fragment."""
        return [unit.layout for unit in self.engine.everything()]

    def finish(self) -> bool:
        """End the round now, so that all ranks hold the same model: before an evaluation or a save, or at the end.

        Every rank calls it, after however many local steps. Nothing is sent if no rank has taken a step since the last
        exchange.

        Returns:
            False if some rank's parameters were not finite. Then the models still differ.
        """
        if self.engine.session.closed:
            raise RuntimeError("these local steps are closed: finish the round before close")
        started = time.perf_counter()
        while self._pending:
            self._arrive()
        fragments, ended, moved = self.engine.fragments, 0, list[bool]()
        while ended < fragments:  # a rank that is not at its end yet takes part in these exchanges at its own pace
            self._submit(last=True)
            outcome = self._arrive()
            moved.append(outcome.moved)
            ended = ended + 1 if outcome.last else 0
        self._plan()
        self.seconds += time.perf_counter() - started
        return all(moved[-fragments:])

    def restart(self) -> None:
        """Begin a round with the model as it is, after something else has written it, such as weights that were loaded.

        Every rank calls it, between steps, with the same model. Otherwise the next exchange would bring back the
        parameters of the round before. Memory and outer state begin at zero; an exchange under way is dropped.

        Raises:
            ValueError: the ranks' models differ; then anchors and memories have not changed.
        """
        self.engine.session.lane.result(self.engine.restart)
        self._pending.clear()
        self.engine.buffers.catch_up(moved=False)
        self._settled = [self.local_steps] * self.engine.fragments
        self._plan()

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Copy the state: every tensor by the name of its parameter. Each rank saves its own, between steps.

        It holds this rank's parameters too, which differ from other ranks' in the middle of a round, and tensors,
        numbers and strings only, so `torch.load(..., weights_only=True)` reads it. The caller saves each
        rank's own optimizer state. An exchange under way is waited for. RuntimeError after a failed exchange.

        With `copy=False` the tensors are the memory of the rounds and of the model themselves: for what is written to
        a file before the next step.
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
        """Continue where `state_dict` was taken, in the middle of a round too; the parameters are written as well.

        Every rank calls it, with its own checkpoint or with a merged one, between steps. Equal settings, ranks and
        optimizer states give equal bits.

        Raises:
            ValueError: in one sentence: the checkpoint does not fit, another rank has refused its own, or the ranks'
                checkpoints are of different moments or runs. Then nothing has changed on any rank.
        """
        self.engine.session.lane.result(lambda: self._load(saved))

    def regroup(self, group: Group) -> None:
        """Continue with the ranks of another group, after some have left (a failed exchange) or others have joined.

        Every rank of the new group calls it between two steps; a rank that joins is made alone first, with
        `group=gradwire.Members()`. Ranks that stay continue from the anchor of the rank that was furthest, each with
        its own parameters, so none of their local steps is lost. Ranks that join start with that anchor and that rank's
        buffers; the caller copies the optimizer's state. Memories keep what `Hook.regroup` keeps. A new round begins,
        and the ledger restarts at 0.

        Raises:
            ValueError: the ranks do not agree; then anchors and memories have not changed.
        """
        group = as_group(group, "regroup")
        self._end_pending()
        found = self.engine.regroup(group, self.local_steps)
        if found.joined:
            self.local_steps = found.progress[-1]
            self._catch_up(self.engine.everything(), "drop", moved=True)
        self._event = self.engine.step
        self._plan()

    def log_to(self, writer: object, every: int = 100) -> None:
        """Write the counters to a TensorBoard, W&B or MLflow writer every so many local steps, until `close`.

        One rank calls it, or each with a writer of its own; nothing is sent for it. See `doors.counters.Log`.
        """
        self._logs.append(Log(self, self._params, writer, every, lambda: self.local_steps))

    def close(self) -> None:
        """End the thread and the process group. Call it before `destroy_process_group`; the program's end does it too.

        The counters stay readable. The optimizer goes on without exchanges.
        """
        self._handle.remove()
        for log in self._logs:
            log.detach()
        self.engine.close()

    def __repr__(self) -> str:
        rounds = f"{named(self.exchange)} every {self.schedule.every.steps} steps, {describe(self.outer)}"
        return in_a_line(self, f"{rounds}, {self.local_steps} local steps")

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
        """After a real step of the optimizer."""
        started = time.perf_counter()
        self.local_steps += 1
        self.ledger.dense += self._nbytes  # a dense average of gradients at every step
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
        for name, param in self._frozen:
            if param.requires_grad and param.grad is not None:
                raise RuntimeError(
                    f"parameter {name!r} was frozen when local steps began, and is trainable now: finish the round and "
                    "close before you unfreeze, and call gradwire.local again"
                )

    def _submit(self, *, last: bool) -> None:
        """Let the next event begin, in the session's thread. A fragment is not exchanged twice at a time."""
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
        """Wait for the oldest exchange under way, and let the parameters catch up."""
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
        """Move parameters to their anchors, and tell owners of copies (sharded modules) that they changed."""
        for unit in units:
            unit.catch_up(how, moved=moved)
        if self._written is not None:
            self._written()

    def _end_pending(self) -> None:
        """Wait for the exchanges under way; those that fail are why ranks regroup."""
        while self._pending:
            with suppress(Exception):
                self._arrive()
        for unit in self.engine.everything():
            unit.held = None
        self.engine.buffers.catch_up(moved=False)

    def _plan(self) -> None:
        """Say when the next event is."""
        self._due = self.local_steps + self.schedule.every.gap(self._event, self.engine.fragments, self.local_steps)

    # ---- checkpoints

    @property
    def _holds(self) -> bool:
        """Whether a checkpoint needs what was held of the tensors."""
        return self.schedule.catch_up == "add" and self.schedule.delay > 0

    def _terms(self) -> dict[str, Any]:
        """What a checkpoint must have been taken with."""
        schedule = self.schedule
        terms = {"outer": self.outer, "every": schedule.every, "delay": schedule.delay, "catch_up": schedule.catch_up}
        return {name: repr(value) for name, value in terms.items()} | {"fragments": repr(self.engine.fragments)}

    def _load(self, saved: dict[str, Any]) -> None:
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
                    unit.hold()  # what was held is not needed, but that the tensors went on is

    def _prepare(self, saved: dict[str, Any]) -> tuple[list[State], list[Tensor]]:
        """Read a checkpoint into new tensors, and check all of it (ValueError)."""
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
