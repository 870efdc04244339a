"""The engine: it replaces the gradients that a door hands over by their means over a process group.

    a door calls `contribute` -> the engine's thread fills units -> a full unit runs the exchange -> the gradients are
    overwritten by their mean -> the engine calls the door back

One thread runs bundles of units one after the other, in the same order on every rank, on a process group of the
engine's own. The caller continues meanwhile.

A *pass* is one backward pass of all tensors. Until it is complete, the state from before it is kept: `snapshot` returns
it, and a pass that is cut short or fails is rolled back. `rollback` undoes a complete pass until the next one begins.
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
from gradwire.engine.membership import gather_membership
from gradwire.engine.session import Session, describe_units
from gradwire.engine.shards import part_of
from gradwire.engine.units import Unit, budgets, make_units
from gradwire.exchange import Exchange, State
from gradwire.exchange.change import change_
from gradwire.exchange.protocol import clone, flatten, visible
from gradwire.layout import Layout, Turn
from gradwire.memory.guard import Guard
from gradwire.transport.group import compare, digest
from gradwire.transport.members import Ranks
from gradwire.vector import Sent

log = logging.getLogger("gradwire")

Done: TypeAlias = Callable[[Exception | None], None]
"""A callback of a door, called once: with None when the gradients hold their means, else with the error."""

Reduce: TypeAlias = Literal["mean", "sum"]
"""How gradients are combined. A sum is the mean times the number of workers."""


class Scaler(Protocol):
    """The method of torch.amp.GradScaler that the engine calls."""

    def get_scale(self) -> float:
        """Return the factor that the loss was multiplied by."""
        ...


@dataclass(frozen=True)
class _Arrival:
    """Gradients, by id of tensor, that wait for their means, and the callback of the door that contributed them."""

    gradients: Sequence[tuple[int, Tensor]]
    done: Done


class Engine:
    """Average the gradients of named tensors over a process group.

    Args:
        named: the tensors by name, in the order in which units go to the network. Every rank gives the same.
        exchange: averages the gradients; the engine wraps it in a `Guard`.
        group: the ranks. The engine opens its own group over them, except for `Members`, whose group it uses directly.
        seed: the seed of all randomness in the exchange.
        unit_bytes: largest size of a unit, unless one tensor is larger.
        scaler: its scale is divided out of the gradients during the exchange, so that memories hold unscaled values.
        lr: returns the learning rate of the step, for memories that keep it.
        fused: False if a door reads all means after the last unit (`means`), so that units cannot share a buffer.
        in_order: never exchange a unit before those in front of it, even if it is full; for doors whose gradients may
            arrive in different orders on different ranks.
        reduce: whether gradients become their mean or their sum.
        contract: further terms that all ranks must agree about, as text by name.

    Attributes:
        exchange, seed, ledger: the exchange, its seed, and the bytes this rank has sent.
        part: (index, count): this group exchanges part `index` of `count`; (0, 1) unless the tensors lie on a mesh.
        seconds: seconds that the thread has spent on gradients so far, network included.
        step: complete passes so far.
        skipped: complete passes in which a value was not finite, and which left the memory untouched.

    Raises:
        ValueError: there is nothing to exchange, or the ranks disagree.
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
        self._open, self._exchanged, self._undoable = False, set[int](), False
        self._finite, self._scale = True, 1.0
        self._budgets: dict[Layout, float] = {}
        self._terms = dict(contract or {}) | self._contract()
        self._failure: Exception | None = None
        self.device = self.units[0].device
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        kernels.warm_up_for(max(unit.layout.d for unit in self.units), self.device)
        self._use(Session(group, self.device, exchange, self._terms | {"seed": repr(seed)}))
        log.info("gradwire: %s over %d ranks, %d units", exchange, self.process.size, len(self.units))

    def _use(self, session: Session) -> None:
        self._session, self._lane = session, session.lane
        self.process, self.ledger = session.process, session.ledger

    @property
    def remembers(self) -> bool:
        """Whether the exchange's state holds tensors, whose values have the gradients' scale."""
        return any(True for unit in self.units for _ in flatten(unit.state))

    @property
    def undoable(self) -> bool:
        """Whether the last pass is complete, and nothing has used or undone it that the engine knows of."""
        return self._undoable

    # ---- what a door calls

    def contribute(
        self, gradients: Sequence[tuple[int, Tensor]], done: Done, *, first: bool = False, last: bool = False
    ) -> None:
        """Submit gradients, by id of tensor, and return at once. `done` is called when they hold their means.

        Gradients are contiguous, in their tensors' memory layout, and the caller does not write them before `done` is
        called. `first` begins a pass, and aborts an earlier one that is incomplete; `last` asserts that the pass is
        complete.

        Raises:
            RuntimeError: the engine is closed or has failed.
        """
        if self._session.closed:
            raise RuntimeError("this model's gradwire hook is closed: its gradients can no longer be averaged")
        if self._failure is not None:
            raise RuntimeError(f"gradwire cannot go on after an earlier failure: {self._failure}") from self._failure
        # On CUDA the engine's stream waits for this event, which follows the kernels that made the gradients.
        ready = None if self._stream is None else torch.cuda.current_stream(self.device).record_event()
        arrival = _Arrival(gradients, done)
        self._lane.submit(lambda: self._advance(arrival, ready, first=first, last=last))

    def means(self) -> list[tuple[Tensor, Tensor]]:
        """Return every tensor with its mean of the last pass, in the tensor's memory layout. Requires fused=False."""
        return [(tensor, unit.views(unit.buffer)[id(tensor)]) for unit in self.units for tensor in unit.tensors]

    def wait_stream(self) -> None:
        """On CUDA, make the caller's stream wait for the means whose callbacks were called."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    # ---- the thread

    def _advance(self, arrival: _Arrival, ready: Any, *, first: bool, last: bool) -> None:
        """Fill units, exchange those that are full, and call back the arrivals that have all their means."""
        if self._failure is not None:
            arrival.done(self._failure)
            return
        if not first and not self._open:
            arrival.done(RuntimeError("this backward pass began before load_state_dict: it cannot be averaged"))
            return
        started = time.perf_counter()
        with self._on_stream(ready):
            try:
                if first:
                    self._begin()
                self._fill(arrival)
                exchanged = self._exchange()
                if last:
                    self._check_complete()
                self.seconds += time.perf_counter() - started
                if exchanged:
                    self._call_back_finished()
            except Exception as failure:
                log.exception("gradwire: the exchange failed")
                self._failure = failure
                self._abort(failure)

    def _on_stream(self, ready: Any) -> AbstractContextManager[Any]:
        """On CUDA, switch to the engine's own stream, after the kernels that made the gradients."""
        if self._stream is None or ready is None:
            return nullcontext()
        self._stream.wait_event(ready)
        return torch.cuda.stream(self._stream)

    def _begin(self) -> None:
        """Begin a pass, after aborting an earlier one that was cut short."""
        self._abort(RuntimeError("this backward pass was cut short, and another one has begun"))
        self._finite, self._open, self._undoable = True, True, False
        self._scale = self.scaler.get_scale() if self.scaler is not None else 1.0
        self._budgets = budgets((unit.tensors, unit.layout, unit.state) for unit in self.units)
        for unit in self.units:
            unit.begin()

    def _abort(self, reason: Exception) -> None:
        """Abort a pass that is not complete: roll back its units, and call the waiting arrivals back with `reason`."""
        if self._open:
            for unit in self.units:
                unit.rollback(self._guarded)
        self._open = False
        self._exchanged.clear()
        waiting, self._waiting = self._waiting, []
        for arrival in waiting:
            arrival.done(reason)

    def _fill(self, arrival: _Arrival) -> None:
        """Add an arrival's gradients to their units (RuntimeError: a tensor is not in any unit)."""
        self._waiting.append(arrival)
        for tensor, gradient in arrival.gradients:
            if tensor not in self._unit_of:
                raise RuntimeError("a parameter was frozen when gradwire was attached, and is trainable now")
            self._unit_of[tensor].fill(tensor, gradient)

    def _exchange(self) -> bool:
        """Exchange all full bundles in order; return whether there was one."""
        ready = self._ready()
        for bundle, sent in zip(
            ready, run_in_order(self.process, [self._talk(bundle) for bundle in ready]), strict=True
        ):
            self._finite &= all(each.finite for each in sent)
            self._exchanged |= bundle.keys()
            self.ledger.dense += sum(
                gradient.nbytes for unit in bundle.values() for gradient in unit.gradients.values()
            )
        if ready and len(self._exchanged) == len(self.units):
            self._end()
        return bool(ready)

    def _ready(self) -> list[dict[int, Unit]]:
        """Return the full bundles not exchanged yet; if `in_order`, only those before the first that is not full."""
        ready: list[dict[int, Unit]] = []
        for bundle in self._bundles:
            if bundle.keys() <= self._exchanged:
                continue
            if not any(unit.missing for unit in bundle.values()):
                ready.append(bundle)
            elif self.in_order:
                break
        return ready

    def _talk(self, bundle: Mapping[int, Unit]) -> Talk[list[Sent]]:
        """Return the coroutine that exchanges a bundle's units side by side."""
        lr = None if self.lr is None else self.lr()
        factor = float(self.process.size) if self.reduce == "sum" else 1.0
        return together(
            [
                unit.average(self._guarded, self._turn(number, unit, lr), self._scale, factor)
                for number, unit in bundle.items()
            ]
        )

    def _turn(self, number: int, unit: Unit, lr: float | None) -> Turn:
        rank, size, budget = self.process.rank, self.process.size, self._budgets[unit.layout]
        return Turn(rank, size, self.step, unit.layout, self.seed, (), unit.params, lr, budget, number)

    def _end(self) -> None:
        """Complete the pass; if a value was not finite on any rank, every unit's memory is rolled back."""
        if not self._finite:
            self.skipped += 1
            for unit in self.units:
                unit.rollback(self._guarded)
        self.step += 1
        self._open, self._undoable = False, True

    def _check_complete(self) -> None:
        """Raise RuntimeError if a pass ends without some tensors, whose units would wait for ever."""
        if lost := [unit.names[tensor] for unit in self.units for tensor in unit.missing]:
            raise RuntimeError(
                f"this backward pass ends without {', '.join(sorted(lost))}: what was frozen when the model was "
                "wrapped cannot be trainable when gradwire is attached; wrap the model again"
            )

    def _call_back_finished(self) -> None:
        """Call back the arrivals all of whose units were exchanged."""
        done = {id(self.units[number]) for number in self._exchanged}
        waiting, self._waiting = self._waiting, []
        for arrival in waiting:
            if all(id(self._unit_of[tensor]) in done for tensor, _ in arrival.gradients):
                arrival.done(None)
            else:
                self._waiting.append(arrival)

    # ---- failures, and other workers

    def rollback(self) -> bool:
        """Restore memories and `step` from before the last pass; return whether there was a pass to undo.

        A pass can be undone once, until it is committed or another one has begun.
        """
        return self._lane.result(self._rollback)

    def commit(self) -> None:
        """Make the last pass final, because its means are used: `rollback` no longer undoes it."""
        self._undoable = False

    def _rollback(self) -> bool:
        cut_short, complete = self._open, self._undoable
        self._abort(RuntimeError("this backward pass was rolled back"))
        self._undoable = False
        if complete:
            self.step, self.skipped = self.step - 1, self.skipped - (not self._finite)
            for unit in self.units:
                unit.rollback(self._guarded)
        return cut_short or complete

    def regroup(self, group: Ranks) -> None:
        """Continue over the ranks of another group. Every rank calls it between steps; an unfinished pass is aborted.

        Step, seed and replicated state become those of the rank with the most steps. The exchange changes the memories
        (`exchange.change`). The ledger restarts at 0.

        Raises:
            ValueError: the ranks disagree; then nothing has changed.
            Exception: whatever a collective raises; then nothing has changed either.
        """
        self._lane.result(lambda: self._abort(RuntimeError("this backward pass was cut short by regroup")))
        self.commit()
        before, session = self._session, Session(group, self.device, self.exchange, self._terms)
        states = [clone(visible(unit.state)) for unit in self.units]
        with session.closed_if_it_fails():
            found = gather_membership(session, before, [self.step], self.seed)
            for unit, state in zip(self.units, states, strict=True):
                if not found.same:
                    session.process.run(change_(self.exchange, state, found.change(unit.layout)))
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
        """Copy the state, every tensor under its parameter's name, from any thread or signal handler.

        During a pass, and after one that failed, it is the state before that pass. Unless `copy`, the tensors are the
        engine's own memory and are valid until the next pass.
        """
        return self._lane.result(lambda: self._snapshot(copy=copy))

    def load(self, saved: dict[str, Any]) -> None:
        """Continue from a `snapshot`. Every rank calls it, with its own checkpoint or a merged one.

        A pass that is under way is rolled back, and its later gradients are refused.

        Raises:
            ValueError: the checkpoint does not fit, another rank has refused its own, or the ranks' checkpoints are of
                different steps, seeds or runs; then nothing has changed on any rank.
        """
        self._lane.result(lambda: self._load(saved))

    def _snapshot(self, *, copy: bool) -> dict[str, Any]:
        memory: dict[str, dict[str, Tensor]] = {}
        for number, unit in enumerate(self.units):
            changed = self._open and number in self._exchanged
            state = unit.before() if changed else visible(unit.state)
            memory.update(checkpoint.by_name(state, unit.layout, copy=copy))
        rank, size = self.process.rank, self.process.size
        return checkpoint.pack(memory, repr(self.exchange), self.seed, self.step, rank, size)

    def _load(self, saved: dict[str, Any]) -> None:
        prepared = self._session.load(saved, lambda: self._prepare(saved), checkpoint.moment)
        self._abort(RuntimeError("this backward pass was cut short by load_state_dict"))
        for unit, state in zip(self.units, prepared, strict=True):
            unit.state.update(state)
        self.seed, self.step, self._undoable = saved["seed"], saved["step"], False

    def _prepare(self, saved: dict[str, Any]) -> list[State]:
        """Check a checkpoint and read it into new tensors, so that any error comes before a change (ValueError)."""
        checkpoint.check(saved, self._snapshot(copy=False))
        return [checkpoint.read(unit.state, unit.layout, saved["memory"]) for unit in self.units]

    def close(self) -> None:
        """End the thread and the process group. Counters and `snapshot` stay readable."""
        self._session.close()

    def _contract(self) -> dict[str, str]:
        """Return the terms that all ranks must agree about, as text by name."""
        return {
            "exchange": repr(self.exchange),
            "parameters": describe_units([(unit.layout, unit.dtype) for unit in self.units]),
            "use of a scaler": repr(self.scaler is not None),
            "use of lr": repr(self.lr is not None),
            "reduce": self.reduce,
            "part of the model": repr(self.part),
        }
