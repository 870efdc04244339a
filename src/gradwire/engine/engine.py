"""The engine: gradients of named tensors come in through a door, and go out as their means over a process group.

    a door calls `contribute` -> the engine's thread fills units -> a full unit runs the exchange -> the gradients are
    overwritten by their mean -> the door is called back

Order is a promise: one thread runs bundles of units to their end one after the other, in their own order, which is
every rank's, on a process group of the engine's own. The caller goes on meanwhile.

A *pass* is one backward pass of all tensors. Memories change when a pass is complete: until then the state before it
exists, `snapshot` returns that, and a pass that is cut short or fails is rolled back. A complete one can be, by
`rollback`, until the next begins.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from gradwire import checkpoint, kernels
from gradwire.ask import Talk, together
from gradwire.engine.bundles import bundled, run_in_order
from gradwire.engine.membership import meet
from gradwire.engine.session import Session, in_words
from gradwire.engine.shards import part_of
from gradwire.engine.units import Unit, divided, make_units
from gradwire.exchange import Exchange, State
from gradwire.exchange.change import change_
from gradwire.exchange.parts import check_workers
from gradwire.exchange.protocol import clone, flatten, visible
from gradwire.layout import Layout, Turn
from gradwire.memory.guard import Guard
from gradwire.transport.group import compare, digest
from gradwire.transport.members import Ranks
from gradwire.vector import Sent

log = logging.getLogger("gradwire")

Done: TypeAlias = Callable[[Exception | None], None]
"""Called once, in the engine's thread: the gradients hold their means, or this is what went wrong."""

Reduce: TypeAlias = Literal["mean", "sum"]
"""What becomes of the workers' gradients. A sum is the mean times the number of workers."""


class Scaler(Protocol):
    """The part of torch.amp.GradScaler that the engine reads."""

    def get_scale(self) -> float:
        """Return the factor that the loss was multiplied by."""
        ...


@dataclass(frozen=True)
class _Arrival:
    """Gradients by id of tensor that wait for their means, and who is told."""

    gradients: Sequence[tuple[int, Tensor]]
    done: Done


class Engine:
    """Average the gradients of named tensors over a process group.

    Args:
        named: the tensors by name, in the order in which units go to the network. Every rank gives the same.
        exchange: what averages; a guard is put around it.
        group: the ranks; the engine opens a group of its own over them, but for `Members`, whose group it speaks on.
        seed: of all randomness in the exchange.
        unit_bytes: bytes that are exchanged together.
        scaler: keeps memories in the gradients' true scale.
        lr: tells the learning rate of the step, for memories that keep it.
        fused: False if means are read later than the step that makes them, so that units cannot share a buffer.
        in_order: exchange no unit before those in front of it, whatever is full; for doors whose gradients may arrive
            in another order on another rank.
        reduce: whether gradients become their mean or their sum.
        contract: what else the ranks must agree about, in words.

    Attributes:
        exchange, seed, ledger: what averages, its seed, and the bytes this rank has sent.
        part: which part of the tensors this group exchanges, and of how many: (0, 1) unless they lie on a mesh.
        seconds: time spent on gradients so far, the network included, while the caller went on or waited.
        step: complete passes so far.
        skipped: of those, how many held a value that was not finite and left the memory untouched.

    Raises:
        ValueError: nothing to exchange, or the ranks do not agree.
    """

    def __init__(
        self,
        named: Sequence[tuple[str, Tensor]],
        exchange: Exchange,
        group: Ranks,
        *,
        seed: int = 0,
        unit_bytes: float = 25 * 2**20,
        scaler: Scaler | None = None,
        lr: Callable[[], float] | None = None,
        fused: bool = True,
        in_order: bool = False,
        reduce: Reduce = "mean",
        contract: Mapping[str, str] | None = None,
    ) -> None:
        self.exchange, self.seed, self.scaler, self.lr = exchange, seed, scaler, lr
        self.in_order, self.reduce, self.part = in_order, reduce, part_of(tensor for _, tensor in named)
        self.step, self.skipped, self.seconds = 0, 0, 0.0
        self._guarded = Guard(exchange)
        self.units = make_units(named, self._guarded, unit_bytes, widened=scaler is not None, fused=fused)
        numbered = iter(enumerate(self.units))
        self._bundles = [dict(itertools.islice(numbered, len(bundle))) for bundle in bundled(self.units)]
        self._unit_of = {tensor: unit for unit in self.units for tensor in unit.names}
        self._waiting: list[_Arrival] = []
        self._open, self._done, self._undoable = False, set[int](), False
        self._finite, self._scale = True, 1.0
        self._budgets: dict[Layout, float] = {}
        self._terms = dict(contract or {}) | self._contract()
        self._failure: Exception | None = None
        self.device = self.units[0].device
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        kernels.warm_up_for(max(unit.layout.d for unit in self.units), self.device)
        self._use(self._open_session(group, {"seed": repr(seed)}))
        log.info("gradwire: %s over %d ranks, %d units", exchange, self.process.size, len(self.units))

    def _open_session(self, group: Ranks, contract: Mapping[str, str]) -> Session:
        """Agree with the ranks of a group, and refuse one that does not fit the exchange."""
        session = Session(group, self.device, self._terms | dict(contract))
        with session.closed_if_it_fails():
            check_workers(self.exchange, session.process.size)
        return session

    def _use(self, session: Session) -> None:
        self._session, self._lane = session, session.lane
        self.process, self.ledger = session.process, session.ledger

    @property
    def remembers(self) -> bool:
        """Whether the exchange has a memory, whose values have the gradients' scale."""
        return any(True for unit in self.units for _ in flatten(unit.state))

    @property
    def undoable(self) -> bool:
        """Whether the last pass is complete, and nothing has used or undone it that the engine knows of."""
        return self._undoable

    # ---- what a door calls

    def contribute(
        self, gradients: Sequence[tuple[int, Tensor]], done: Done, *, first: bool = False, last: bool = False
    ) -> None:
        """Take gradients by id of tensor, and return at once. `done` is called when they hold their means.

        Gradients are contiguous, in the order in which their tensors lie in memory, and not written by the caller
        until then. The `first` of a pass makes void what is left of an earlier one; after the `last` none is missing.

        Raises:
            RuntimeError: the engine is closed or has failed.
        """
        if self._session.closed:
            raise RuntimeError("this model's gradwire hook is closed: its gradients can no longer be averaged")
        if self._failure is not None:
            raise RuntimeError(f"gradwire cannot go on after an earlier failure: {self._failure}") from self._failure
        ready = None if self._stream is None else torch.cuda.current_stream(self.device).record_event()
        arrival = _Arrival(gradients, done)
        self._lane.submit(lambda: self._advance(arrival, ready, first=first, last=last))

    def means(self) -> list[tuple[Tensor, Tensor]]:
        """Return every tensor with its mean of the last pass, flat, as it lies in memory; for engines not `fused`."""
        return [(tensor, unit.views(unit.buffer)[id(tensor)]) for unit in self.units for tensor in unit.tensors]

    def wait_stream(self) -> None:
        """On CUDA, let the caller's stream wait for the means that it has been told of."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    # ---- the thread

    def _advance(self, arrival: _Arrival, ready: Any, *, first: bool, last: bool) -> None:
        """Fill units, exchange those that are full, and tell the arrivals that have all their means."""
        if self._failure is not None:
            arrival.done(self._failure)
            return
        if not first and not self._open:
            arrival.done(RuntimeError("this backward pass began before load_state_dict: it cannot be averaged"))
            return
        started = time.perf_counter()
        with self._behind(ready):
            try:
                if first:
                    self._begin()
                self._fill(arrival)
                exchanged = self._exchange()
                if last:
                    self._check_complete()
                self.seconds += time.perf_counter() - started
                if exchanged:
                    self._tell_served()
            except Exception as failure:
                log.exception("gradwire: the exchange failed")
                self._failure = failure
                self._void(failure)

    def _behind(self, ready: Any) -> AbstractContextManager[Any]:
        """On CUDA work on the engine's own stream, behind the kernels that made the gradients."""
        if self._stream is None or ready is None:
            return nullcontext()
        self._stream.wait_event(ready)
        return torch.cuda.stream(self._stream)

    def _begin(self) -> None:
        """Open a pass; an earlier one that was cut short is void."""
        self._void(RuntimeError("this backward pass was cut short, and another one has begun"))
        self._finite, self._open, self._undoable = True, True, False
        self._scale = self.scaler.get_scale() if self.scaler is not None else 1.0
        self._budgets = divided((unit.tensors, unit.layout, unit.state) for unit in self.units)
        for unit in self.units:
            unit.begin()

    def _void(self, reason: Exception) -> None:
        """End a pass that is not complete: roll back what it has begun, and tell those who wait."""
        if self._open:
            for unit in self.units:
                unit.rollback(self._guarded)
        self._open = False
        self._done.clear()
        waiting, self._waiting = self._waiting, []
        for arrival in waiting:
            arrival.done(reason)

    def _fill(self, arrival: _Arrival) -> None:
        """Hand gradients to their units."""
        self._waiting.append(arrival)
        for tensor, gradient in arrival.gradients:
            if tensor not in self._unit_of:
                raise RuntimeError("a parameter was frozen when gradwire was attached, and is trainable now")
            self._unit_of[tensor].fill(tensor, gradient)

    def _exchange(self) -> bool:
        """Run all bundles that are full and not done, in their own order, which is every rank's; tell if any was."""
        ready = self._ready()
        for bundle, sent in zip(
            ready, run_in_order(self.process, [self._talk(bundle) for bundle in ready]), strict=True
        ):
            self._finite &= all(each.finite for each in sent)
            self._done |= bundle.keys()
            self.ledger.dense += sum(
                gradient.nbytes for unit in bundle.values() for gradient in unit.gradients.values()
            )
        if ready and len(self._done) == len(self.units):
            self._end()
        return bool(ready)

    def _ready(self) -> list[dict[int, Unit]]:
        """Bundles, as units by number, that are full and not done; if `in_order`, only before the first unfinished."""
        ready: list[dict[int, Unit]] = []
        for bundle in self._bundles:
            if bundle.keys() <= self._done:
                continue
            if not any(unit.missing for unit in bundle.values()):
                ready.append(bundle)
            elif self.in_order:
                break
        return ready

    def _talk(self, bundle: Mapping[int, Unit]) -> Talk[list[Sent]]:
        """The exchanges of a bundle's units, side by side."""
        lr = None if self.lr is None else self.lr()
        times = float(self.process.size) if self.reduce == "sum" else 1.0
        return together(
            [
                unit.average(self._guarded, self._turn(number, unit, lr), self._scale, times)
                for number, unit in bundle.items()
            ]
        )

    def _turn(self, number: int, unit: Unit, lr: float | None) -> Turn:
        rank, size, budget = self.process.rank, self.process.size, self._budgets[unit.layout]
        return Turn(rank, size, self.step, unit.layout, self.seed, (), unit.params, lr, budget, number)

    def _end(self) -> None:
        """All units are done: a step that was not finite anywhere leaves no trace in any memory."""
        if not self._finite:
            self.skipped += 1
            for unit in self.units:
                unit.rollback(self._guarded)
        self.step += 1
        self._open, self._undoable = False, True

    def _check_complete(self) -> None:
        """Refuse a pass that ends without some tensors: their units would wait for ever."""
        if lost := [unit.names[tensor] for unit in self.units for tensor in unit.missing]:
            raise RuntimeError(
                f"this backward pass ends without {', '.join(sorted(lost))}: what was frozen when the model was "
                "wrapped cannot be trainable when gradwire is attached; wrap the model again"
            )

    def _tell_served(self) -> None:
        """Tell the arrivals all of whose units are done."""
        done = {id(self.units[number]) for number in self._done}
        waiting, self._waiting = self._waiting, []
        for arrival in waiting:
            if all(id(self._unit_of[tensor]) in done for tensor, _ in arrival.gradients):
                arrival.done(None)
            else:
                self._waiting.append(arrival)

    # ---- failures, and other workers

    def rollback(self) -> bool:
        """Make memories and `step` what they were before the last pass; once, and False if there is nothing to undo.

        There is nothing once the pass is committed or another one has begun.
        """
        return self._lane.result(self._rollback)

    def commit(self) -> None:
        """The last pass cannot be rolled back any more: its means are used."""
        self._undoable = False

    def _rollback(self) -> bool:
        cut_short, complete = self._open, self._undoable
        self._void(RuntimeError("this backward pass was rolled back"))
        self._undoable = False
        if complete:
            self.step, self.skipped = self.step - 1, self.skipped - (not self._finite)
            for unit in self.units:
                unit.rollback(self._guarded)
        return cut_short or complete

    def regroup(self, group: Ranks) -> None:
        """Continue over the ranks of another group. Every rank calls it between steps; an unfinished pass is void.

        Step, seed and replicated state become those of the rank that is furthest, and memories what the exchange says
        (`exchange.change`). The ledger counts from nothing again.

        Raises:
            ValueError: the ranks do not agree; then nothing has changed.
            Exception: whatever a collective raises; nor has anything then.
        """
        self._lane.result(lambda: self._void(RuntimeError("this backward pass was cut short by regroup")))
        self.commit()
        before, session = self._session, self._open_session(group, {})
        states = [clone(visible(unit.state)) for unit in self.units]
        with session.closed_if_it_fails():
            found = meet(session, before, [self.step], self.seed)
            for unit, state in zip(self.units, states, strict=True):
                if not found.same:
                    session.process.run(change_(self.exchange, state, found.of(unit.layout)))
            other = compare(session.process, self.device, digest(unit.params() for unit in self.units))
        before.close()
        self._use(session)
        for unit, state in zip(self.units, states, strict=True):
            unit.forget()
            unit.state.update(state)
        (self.step,), self.seed, self._failure = found.progress, found.seed, None
        if other is not None:
            log.warning("gradwire: the ranks go on from different parameters; copy them from the rank that is furthest")

    # ---- checkpoints

    def snapshot(self, *, copy: bool = True) -> dict[str, Any]:
        """Copy the state, every tensor by the name of its parameter. Disturbs nothing, wherever it is called from.

        During a pass, also from another thread or a signal handler, it is the state before that pass; so it is after
        one that failed. If not `copy`, tensors are the engine's own memory, and hold until the next pass.
        """
        return self._lane.result(lambda: self._snapshot(copy=copy))

    def load(self, saved: dict[str, Any]) -> None:
        """Go on where `snapshot` was taken. Every rank calls it, with its own checkpoint or with a merged one.

        A pass that is under way is void: it is rolled back, and its later gradients are refused.

        Raises:
            ValueError: one sentence saying what does not fit, or that another rank has refused, or that the ranks'
                checkpoints are of different steps, seeds or runs; then nothing has been changed on any rank.
        """
        self._lane.result(lambda: self._load(saved))

    def _snapshot(self, *, copy: bool) -> dict[str, Any]:
        memory: dict[str, dict[str, Tensor]] = {}
        for number, unit in enumerate(self.units):
            changed = self._open and number in self._done
            state = unit.before() if changed else visible(unit.state)
            memory.update(checkpoint.by_name(state, unit.layout, copy=copy))
        rank, size = self.process.rank, self.process.size
        return checkpoint.pack(memory, repr(self.exchange), self.seed, self.step, rank, size)

    def _load(self, saved: dict[str, Any]) -> None:
        prepared = self._session.load(saved, lambda: self._prepare(saved), checkpoint.moment)
        self._void(RuntimeError("this backward pass was cut short by load_state_dict"))
        for unit, state in zip(self.units, prepared, strict=True):
            unit.state.update(state)
        self.seed, self.step, self._undoable = saved["seed"], saved["step"], False

    def _prepare(self, saved: dict[str, Any]) -> list[State]:
        """Read a checkpoint into new tensors, so that what it holds can fail before anything has changed."""
        checkpoint.check(saved, self._snapshot(copy=False))
        return [checkpoint.read(unit.state, unit.layout, saved["memory"]) for unit in self.units]

    def close(self) -> None:
        """End the thread and the process group. Counters and `snapshot` stay readable."""
        self._session.close()

    def _contract(self) -> dict[str, str]:
        """What all ranks must agree about."""
        return {
            "exchange": repr(self.exchange),
            "parameters": in_words([(unit.layout, unit.dtype) for unit in self.units]),
            "use of a scaler": repr(self.scaler is not None),
            "use of lr": repr(self.lr is not None),
            "reduce": self.reduce,
            "part of the model": repr(self.part),
        }
