"""Rounds: tensors that took local steps are synchronised through any exchange and an outer step.

    a door submits `run` -> the engine's thread agrees with the other ranks -> every unit of the fragment:
    x = anchor - tensors, the exchange, anchor = outer(anchor, mean) -> the door moves the tensors to the anchor

An *event* is one exchange of one fragment. Events are numbered, and event e exchanges fragment e modulo the number of
fragments, on all ranks. It begins with one short message per rank: the event's number, whether all values are finite,
and whether the rank is at its end (`last`). If any rank's tensors hold an inf or a NaN, the event ends there: nothing
has changed, and the fragment's next difference contains this one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from gradwire import checkpoint, kernels
from gradwire.ask import AllGather, Broadcast, together
from gradwire.engine.anchored import Anchored
from gradwire.engine.buffers import Buffers
from gradwire.engine.bundles import Workspace, bundled, run_in_order
from gradwire.engine.membership import Membership, gather_membership
from gradwire.engine.session import Session, describe_units
from gradwire.engine.shards import shard
from gradwire.engine.units import budgets, cut
from gradwire.exchange import Exchange, State
from gradwire.exchange.change import change_
from gradwire.exchange.protocol import clone, visible
from gradwire.layout import Turn
from gradwire.outer import Outer
from gradwire.transport.group import compare, digest
from gradwire.transport.members import Ranks

log = logging.getLogger("gradwire")


@dataclass(frozen=True)
class Outcome:
    """The result of an event. moved: all values were finite. last: every rank was at its end."""

    moved: bool
    last: bool


class Rounds:
    """Exchange differences of named tensors over a process group.

    Args:
        named: the tensors by name. Every rank gives the same, with equal values. Of a sharded tensor this rank's shard
            is exchanged.
        buffers: returns the model's buffers, which a module may replace at any time. At every event of fragment 0,
            floating-point ones are averaged and the others copied from rank 0.
        exchange: averages the differences.
        outer: the outer step, which moves the anchor by the mean difference.
        group: the ranks. The engine opens its own group over them, except for `Members`, whose group it uses directly.
        seed: the seed of all randomness in the exchange.
        unit_bytes: largest size of a unit, unless one tensor is larger.
        fragments: number of fragments; unit u belongs to fragment u modulo this number.
        device: the device of anchors, memories and outer states, on which x is computed; the tensors' if None.
        contract: further terms that all ranks must agree about, as text by name.

    Attributes:
        units: the units of every fragment.
        step: events so far.
        skipped: events that changed nothing because a value was not finite.

    Raises:
        ValueError: there is nothing to exchange, there are fewer units than fragments, or the ranks disagree.
    """

    def __init__(
        self,
        named: Sequence[tuple[str, Tensor]],
        buffers: Callable[[], Sequence[Tensor]],
        exchange: Exchange,
        outer: Outer,
        group: Ranks,
        *,
        seed: int = 0,
        unit_bytes: float = 25 * 2**20,
        fragments: int = 1,
        device: torch.device | None = None,
        contract: dict[str, str] | None = None,
    ) -> None:
        self.exchange, self.outer, self.seed, self.fragments = exchange, outer, seed, fragments
        self.step = self.skipped = 0
        total = sum(shard(tensor).nbytes for _, tensor in named)
        parts = cut(named, min(unit_bytes, total / fragments) if fragments > 1 else unit_bytes)
        self.device = device or named[0][1].device
        units = [Anchored(part, exchange, outer, self.device) for part in parts]
        if len(units) < fragments:
            raise ValueError(f"the parameters make {len(units)} units, too few for {fragments} fragments")
        self.units = [units[fragment::fragments] for fragment in range(fragments)]
        self.buffers = Buffers(buffers, self.device)
        self._bundles = [bundled(part) for part in self.units]
        self._workspace = Workspace(*self._bundles)
        self._failure: Exception | None = None
        self._averaged: list[Anchored] = []
        self._finished: list[Anchored] = []
        kernels.warm_up_for(max(unit.layout.d for unit in units), self.device)
        terms = {
            "exchange": repr(exchange),
            "outer step": repr(outer),
            "parameters": describe_units([(unit.layout, unit.dtype) for unit in units]),
        }
        self._terms = (contract or {}) | terms
        self._use(Session(group, self.device, exchange, self._terms | {"seed": repr(seed)}))
        log.info("gradwire: %s and %s over %d ranks, %d units", exchange, outer, self.process.size, len(units))

    def _use(self, session: Session) -> None:
        self.session, self.process, self.ledger = session, session.process, session.ledger

    def regroup(self, group: Ranks, local_steps: int) -> Membership:
        """Continue over the ranks of another group. Every rank of it calls this.

        Step, seed, anchors and outer states become those of the rank that is furthest. The exchange changes the
        memories (`exchange.change`). Ranks that were not in its former group also receive its buffers; their caller
        moves their tensors to the anchor. The ledger restarts at 0.

        Raises:
            ValueError: the ranks disagree; then nothing has changed.
            Exception: whatever a collective raises; then anchors and memories have not changed either.
        """
        before, units = self.session, self.all_units()
        session = Session(group, self.device, self.exchange, self._terms)
        memories, replicas = [clone(visible(unit.memory)) for unit in units], list[Tensor]()
        with session.closed_if_it_fails():
            found = gather_membership(session, before, [self.step, len(self._averaged), local_steps], self.seed)
            for unit, memory in zip(units, memories, strict=True):
                replicas += [session.process.ask(Broadcast(tensor, found.source)) for tensor in unit.replicas()]
                if not found.same:
                    session.process.run(change_(self.exchange, memory, found.change(unit.layout)))
            session.process.run(self.buffers.broadcast(found.source, write=found.joined))
        before.close()
        self._use(session)
        for unit, memory in zip(units, memories, strict=True):
            unit.memory.update(memory)
        for mine, theirs in zip((tensor for unit in units for tensor in unit.replicas()), replicas, strict=True):
            mine.copy_(theirs)
        self.step, self.seed, self._failure, self._averaged = found.progress[0], found.seed, None, []
        return found

    def restart(self) -> None:
        """Copy the tensors to the anchors, and initialise memories and outer states. Every rank calls it.

        Raises:
            ValueError: the ranks' tensors differ; then nothing has changed.
        """
        tensors = [shard(tensor) for unit in self.all_units() for tensor in unit.tensors]
        if (other := compare(self.process, self.device, digest(tensors))) is not None:
            raise ValueError(f"rank {other} has another model: load the same one on every rank, or finish the round")
        for unit in self.all_units():
            unit.restart(self.exchange, self.outer)

    def finished(self) -> list[Anchored]:
        """Return, once, the units of a failed event whose anchors had moved before the failure."""
        finished, self._finished = self._finished, []
        return finished

    def all_units(self) -> list[Anchored]:
        """Return all units, fragment by fragment."""
        return [unit for part in self.units for unit in part]

    def due(self) -> int:
        """Return the fragment of the next event to run."""
        return self.step % self.fragments

    def run(self, *, last: bool = False, idle: bool = False) -> Outcome:
        """Run the next event, in the session's thread. Every rank calls it for every event.

        `last`: this rank is at its end. `idle`: the fragment's tensors equal its anchor; if that holds on all ranks,
        nothing is exchanged.

        Raises:
            RuntimeError: an earlier event has failed, or the ranks are at different events.
            Exception: whatever a collective raises. Units that were exchanged before keep their new anchors
                (`finished`); all others are unchanged.
        """
        if self._failure is not None:
            raise RuntimeError(f"gradwire cannot go on after an earlier failure: {self._failure}") from self._failure
        try:
            return self._event(last=last, idle=idle)
        except Exception as failure:
            log.exception("gradwire: the exchange failed")
            self._failure, self._finished = failure, list(self._averaged)
            raise

    def _event(self, *, last: bool, idle: bool) -> Outcome:
        """Gather the ranks' numbers, then exchange the fragment unless a value is not finite or all ranks are idle."""
        units = self.units[self.due()]
        finite = all(unit.finite() for unit in units) and (self.due() > 0 or self.buffers.finite())
        words = torch.tensor([self.step, not finite, last, idle], dtype=torch.int64, device=self.device)
        gathered = self.process.ask(AllGather(words.view(torch.uint8))).view(torch.int64)
        rows = cast(list[list[int]], gathered.tolist())
        events, broken, ends, idles = zip(*rows, strict=True)
        if len(set(events)) > 1:
            raise RuntimeError(f"the ranks are at different exchanges: {', '.join(map(str, events))}")
        if any(broken):
            ranks = ", ".join(str(rank) for rank, wrong in enumerate(broken) if wrong)
            log.warning("gradwire: a value of rank %s is not finite, so this exchange is skipped", ranks)
            self.skipped += 1
        elif not all(idles):
            self._average(units)
        self.step, self._averaged = self.step + 1, []
        return Outcome(moved=not any(broken), last=all(ends))

    def _average(self, units: Sequence[Anchored]) -> None:
        """Exchange the units in order, and with fragment 0 the buffers."""
        divided = budgets((unit.tensors, unit.layout, unit.memory) for unit in units)
        talks = [
            together([self._talk(unit, divided[unit.layout]) for unit in bundle])
            for bundle in self._bundles[self.due()]
        ]
        for _ in run_in_order(self.process, talks):
            pass
        if self.due() == 0:
            self.process.run(self.buffers.average(self.process.size))

    async def _talk(self, unit: Anchored, budget: float) -> None:
        """Exchange a unit, and record that its anchor has moved."""
        rank, size = self.process.rank, self.process.size
        turn = Turn(rank, size, self.step, unit.layout, self.seed, budget=budget)
        await unit.average(self.exchange, self.outer, turn, self._workspace.of(unit.layout))
        self._averaged.append(unit)

    # ---- checkpoints

    def snapshot(self, *, held: bool, copy: bool = True) -> dict[str, Any]:
        """Copy the state: memories, anchors, outer states and the model's tensors, under their parameters' names.

        `held` includes the copies that "add" needs (`Anchored.held`). Unless `copy`, the tensors are the engine's and
        the model's own memory.

        Raises:
            RuntimeError: an exchange has failed.
        """
        if self._failure is not None:
            raise RuntimeError(f"the exchange has failed and its memory with it: {self._failure}") from self._failure
        memory: dict[str, dict[str, Tensor]] = {}
        for unit in self.all_units():
            memory.update(unit.named(held=held, copy=copy))
        rank, size = self.process.rank, self.process.size
        return checkpoint.pack(memory, repr(self.exchange), self.seed, self.step, rank, size)

    def prepare(self, saved: dict[str, Any], *, held: bool) -> list[State]:
        """Check a checkpoint and read it into new tensors (ValueError)."""
        checkpoint.check(saved, self.snapshot(held=held, copy=False))
        return [unit.read(saved["memory"], held=held) for unit in self.all_units()]

    def load(self, saved: dict[str, Any], states: Sequence[State]) -> None:
        """Overwrite units, seed and step with what `prepare` has read."""
        for unit, state in zip(self.all_units(), states, strict=True):
            unit.load(state)
        self.seed, self.step = saved["seed"], saved["step"]

    def close(self) -> None:
        """End the thread and the process group. Counters and `snapshot` stay readable."""
        self.session.close()
