"""A run's model, data, optimizer and memories, and its steps."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from gradwire.lab.averager import Meet
from gradwire.lab.training.memory import guarded, residual, support
from gradwire.lab.training.settings import Evaluation, Step, Training
from gradwire.lab.training.tasks.protocol import Settings, rng
from gradwire.layout import Layout

FALL = 0.1
"""Factor of the learning rate at each decay."""


class TrainingRun:
    """Task, model, optimizer, memories and clock. `training` has every default written out."""

    def __init__(self, training: Training, meet: Meet) -> None:
        self.training, self.task = training, training.make()
        self.settings = training.settings
        self.per_epoch = self.task.steps_per_epoch(training.workers, self.settings.batch)
        self.model = self.task.model(training.model, training.seed)
        # The last parameter first, as the hook lays them: then both draw the same numbers.
        named = [(name, param) for name, param in self.model.named_parameters() if param.requires_grad][::-1]
        self.layout = Layout([name for name, _ in named], [tuple(param.shape) for _, param in named])
        self.parameters = [param for _, param in named]
        self.averager = meet(guarded(training), self.layout, training.workers, training.seed)
        self.xs = torch.zeros(len(self.averager.workers), self.layout.d)
        self.rows = [list(self.layout.cut(x).values()) for x in self.xs]
        self.mean = torch.zeros(self.layout.d)
        for param, view in zip(self.parameters, self.layout.cut(self.mean).values(), strict=True):
            param.grad = view
        self.optimizer = _optimizer(self.settings, self.parameters)
        self.step, self.seconds = 0, 0.0

    def advance(self) -> Step:
        """One step. ArithmeticError if a gradient is not finite."""
        began, before = time.perf_counter(), self.counted()
        loss = sum(self.gradient(worker, row) for worker, row in zip(self.averager.workers, self.rows, strict=True))
        self.clip()
        computed, lr = time.perf_counter(), self.rate()
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
        """Write one worker's gradient into its row; its loss.

        Running statistics of a batch normalisation are those of worker 0, as under DDP.
        """
        run = self.training
        kept = [buffer.clone() for buffer in self.model.buffers()] if worker else []
        with torch.random.fork_rng(devices=[]):  # for models with dropout
            torch.random.set_rng_state(rng("model", run.seed, self.step, worker).get_state())
            loss = self.task.loss(self.model, worker, run.workers, self.step, self.settings.batch, run.seed)
            gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        for view, gradient in zip(row, gradients, strict=True):
            view.copy_(gradient)
        for buffer, value in zip(self.model.buffers(), kept, strict=False):
            buffer.copy_(value)
        return loss.item()

    def clip(self) -> None:
        """Clip every worker's own gradient, before it is compressed."""
        if self.settings.clip:
            norms = self.xs.square().sum(1, keepdim=True).sqrt_()
            self.xs.mul_((self.settings.clip / (norms + 1e-6)).clamp_(max=1.0))

    def rate(self) -> float:
        """The learning rate of this step."""
        falls = sum(self.step >= part * self.settings.steps for part in self.settings.decay)
        return self.settings.lr * FALL**falls

    def counted(self) -> tuple[float, float]:
        """Bytes and traffic of the workers here so far."""
        entries = self.averager.ledger.entries.values()
        return sum(entry.bytes for entry in entries), sum(entry.traffic for entry in entries)

    def report(
        self, loss: float, density: float, before: tuple[float, float], seconds: tuple[float, float, float]
    ) -> Step:
        """A step's numbers, those of all workers put together."""
        lengths = [length for length in map(residual, self.averager.states) if length is not None]
        after = self.counted()
        mine = [loss, sum(lengths), *(new - old for new, old in zip(after, before, strict=True))]
        mean, length, sent, traffic = (number / self.training.workers for number in self.averager.total(mine))
        return Step(self.step, mean, density, length if lengths else None, sent, traffic, *seconds)

    def evaluate(self) -> Evaluation:
        """Metrics on held-out data; the clock stands still."""
        metrics = self.task.evaluate(self.model)
        return Evaluation(self.step, self.step / self.per_epoch, self.seconds, metrics)


def _optimizer(settings: Settings, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, or Adam; it is given the mean as the gradient."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.lr, settings.betas)
    return torch.optim.SGD(parameters, settings.lr, settings.momentum, nesterov=settings.momentum > 0)
