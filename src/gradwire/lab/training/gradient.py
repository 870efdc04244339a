"""One worker's gradient at one step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradwire.lab.training.settings import Training
from gradwire.lab.training.tasks.protocol import Task, rng


def gradient_(
    run: Training, task: Task, model: nn.Module, parameters: Sequence[Tensor], worker: int, step: int, row: list[Tensor]
) -> float:
    """Write a worker's gradient into its row and return its loss. `run` must have its defaults filled in."""
    with torch.random.fork_rng(devices=[]):  # models with dropout draw from torch's generator
        torch.random.set_rng_state(rng("model", run.seed, step, worker).get_state())
        loss = task.loss(model, worker, run.workers, step, run.settings.batch, run.seed)
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    for view, gradient in zip(row, gradients, strict=True):
        view.copy_(gradient)
    return loss.item()
