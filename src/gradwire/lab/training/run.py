"""A run that exchanges at every step: its model, data, optimizer and states, and its steps."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from gradwire.lab.averager import Meet
from gradwire.lab.training.gradient import gradient_
from gradwire.lab.training.memory import guarded, residual, support
from gradwire.lab.training.optimizers import clip_, make, rate
from gradwire.lab.training.settings import Evaluation, Step, Training
from gradwire.layout import Layout


class TrainingRun:
    """Task, model, optimizer, states and clock. `training` must have its defaults filled in."""

    def __init__(self, training: Training, meet: Meet) -> None:
        self.training, self.task = training, training.make()
        self.settings = training.settings
        self.per_epoch = self.task.steps_per_epoch(training.workers, self.settings.batch)
        self.model = self.task.model(training.model, training.seed)
        # The last parameter first, in the hook's order, so that both draw the same random numbers.
        named = [(name, param) for name, param in self.model.named_parameters() if param.requires_grad][::-1]
        self.layout = Layout([name for name, _ in named], [tuple(param.shape) for _, param in named])
        self.parameters = [param for _, param in named]
        self.averager = meet(guarded(training), self.layout, training.workers, training.seed)
        self.xs = torch.zeros(len(self.averager.workers), self.layout.d)
        self.rows = [list(self.layout.cut(x).values()) for x in self.xs]
        self.mean = torch.zeros(self.layout.d)
        for param, view in zip(self.parameters, self.layout.cut(self.mean).values(), strict=True):
            param.grad = view
        self.optimizer, self.workers = make(self.settings, self.parameters), self.averager.workers
        self.step, self.seconds = 0, 0.0

    def advance(self) -> Step:
        """Make one step; ArithmeticError if a gradient is not finite."""
        began, before = time.perf_counter(), self.counted()
        loss = sum(self.gradient(worker, row) for worker, row in zip(self.workers, self.rows, strict=True))
        clip_(self.xs, self.settings.clip)
        computed, lr = time.perf_counter(), rate(self.settings, self.step)
        params = torch.cat([param.detach().flatten() for param in self.parameters])
        sent = self.averager.send(self.xs, self.step, params, lr)
        if not sent.finite:
            raise ArithmeticError(f"a gradient of step {self.step + 1} is not finite; try a smaller learning rate")
        sent.mean.write_to_(self.mean)
        averaged = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        ended = time.perf_counter()
        self.step, self.seconds = self.step + 1, self.seconds + ended - began
        density = support(sent.mean, self.mean) / self.layout.d
        return self.report(loss, density, before, (computed - began, averaged - computed, ended - averaged))

    def gradient(self, worker: int, row: list[Tensor]) -> float:
        """Write one worker's gradient into its row and return its loss.

        Only worker 0 updates the model's buffers, such as running statistics, as under DDP.
        """
        kept = [buffer.clone() for buffer in self.model.buffers()] if worker else []
        loss = gradient_(self.training, self.task, self.model, self.parameters, worker, self.step, row)
        for buffer, value in zip(self.model.buffers(), kept, strict=False):
            buffer.copy_(value)
        return loss

    def counted(self) -> tuple[float, float]:
        """Bytes and traffic so far, summed over the workers in this process."""
        entries = self.averager.ledger.entries.values()
        return sum(entry.bytes for entry in entries), sum(entry.traffic for entry in entries)

    def report(
        self, loss: float, density: float, before: tuple[float, float], seconds: tuple[float, float, float]
    ) -> Step:
        """Make a step's figures, averaged over all workers."""
        lengths = [length for length in map(residual, self.averager.states) if length is not None]
        after = self.counted()
        mine = [loss, sum(lengths), *(new - old for new, old in zip(after, before, strict=True))]
        mean, length, sent, traffic = (number / self.training.workers for number in self.averager.total(mine))
        return Step(self.step, mean, density, length if lengths else None, sent, traffic, *seconds)

    def evaluate(self) -> Evaluation:
        """Evaluate on held-out data; the time does not count."""
        metrics = self.task.evaluate(self.model)
        return Evaluation(self.step, self.step / self.per_epoch, self.seconds, metrics)
