"""A run of local steps: n models train apart and are averaged at the end of every round."""

from __future__ import annotations

import time

from gradwire.lab.training.crowd import Crowd
from gradwire.lab.training.gradient import gradient_
from gradwire.lab.training.local import LocalSteps
from gradwire.lab.training.memory import guarded, residual, support
from gradwire.lab.training.optimizers import clip_, make, rate
from gradwire.lab.training.rounds import Timetable
from gradwire.lab.training.settings import Evaluation, Step, Training


class LocalRun:
    """Task, workers, one optimizer for all of them, and rounds. `training` must have its defaults filled in."""

    def __init__(self, training: Training, local: LocalSteps) -> None:
        self.training, self.task, self.settings = training, training.make(), training.settings
        self.per_epoch = self.task.steps_per_epoch(training.workers, self.settings.batch)
        self.crowd = Crowd(self.task.model(training.model, training.seed), training.workers)
        self.layout, self.workers = self.crowd.layout, range(training.workers)
        self.optimizer = make(self.settings, self.crowd.parameters)
        self.timetable = Timetable(
            local,
            guarded(training),
            self.layout,
            training.workers,
            self.settings.steps,
            training.seed,
            self.crowd.thetas[0],
        )
        self.step, self.seconds = 0, 0.0
        self._residual: float | None = None

    def advance(self) -> Step:
        """Make one step of every worker, and any exchange that is due; ArithmeticError if a model is not finite."""
        began, before = time.perf_counter(), self._counted()
        loss = sum(self._gradient(worker) for worker in self.workers) / len(self.workers)
        clip_(self.crowd.gradients, self.settings.clip)
        computed = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.settings, self.step)
        self.optimizer.step()
        updated = time.perf_counter()
        self.step += 1
        entries = self._exchange()
        averaged = time.perf_counter()
        self.seconds += averaged - began
        sent, traffic = (new - old for new, old in zip(self._counted(), before, strict=True))
        times = (computed - began, averaged - updated, updated - computed)
        return Step(self.step, loss, entries / self.layout.d, self._residual, sent, traffic, *times)

    def evaluate(self) -> Evaluation:
        """Evaluate the anchor on held-out data; the time does not count."""
        self.crowd.load_anchor(self.timetable.anchor)
        metrics = self.task.evaluate(self.crowd.model)
        return Evaluation(self.step, self.step / self.per_epoch, self.seconds, metrics)

    def _gradient(self, worker: int) -> float:
        """Write one worker's gradient and return its loss."""
        self.crowd.load_worker(worker)
        row = self.crowd.gradient_rows[worker]
        return gradient_(self.training, self.task, self.crowd.model, self.crowd.places, worker, self.step, row)

    def _exchange(self) -> int:
        """Make the exchanges that are due; return the number of entries sent."""
        entries = 0
        for sent in self.timetable.after(self.step, self.crowd.thetas):
            if not sent.finite:
                raise ArithmeticError(f"a model of step {self.step} is not finite; try a smaller learning rate")
            entries += support(sent.mean, sent.mean.dense())
            self._residual = self._length()
            self.crowd.average_buffers()
        return entries

    def _length(self) -> float | None:
        """The norm of a worker's residual over all fragments, averaged over the workers; None if it has none."""
        states = [fragment.rounds.averager.states for fragment in self.timetable.fragments]
        lengths = [[residual(state) or 0.0 for state in each] for each in zip(*states, strict=True)]
        has_one = residual(states[0][0]) is not None
        return sum(sum(part**2 for part in parts) ** 0.5 for parts in lengths) / len(lengths) if has_one else None

    def _counted(self) -> tuple[float, float]:
        """Bytes and traffic so far, averaged over the workers."""
        ledgers = [fragment.rounds.averager.ledger for fragment in self.timetable.fragments]
        entries = [entry for ledger in ledgers for entry in ledger.entries.values()]
        n = len(self.workers)
        return sum(entry.bytes for entry in entries) / n, sum(entry.traffic for entry in entries) / n
