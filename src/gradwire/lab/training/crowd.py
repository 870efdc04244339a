"""n workers that each have a model of their own, in one process: their parameters are the rows of one tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradwire.layout import Layout


class Crowd:
    """The models of n workers, equal at first, and one module that can be any of them.

    A loop over the workers: for a GPT of 0.8 M on one thread it is as fast as `torch.func.vmap`, and n batches in one
    are a tenth faster.

    `thetas` f[n, d] and `gradients` f[n, d] hold everything; `parameters` are the same memory cut into tensors, whose
    `grad` is cut out of the gradients, so that one optimizer can step all workers in one call. `buffers` has a copy of
    the module's for each worker.
    """

    def __init__(self, model: nn.Module, workers: int) -> None:
        self.model = model
        # The last parameter first, as the engine lays them: then both draw the same numbers.
        named = [(name, param) for name, param in model.named_parameters() if param.requires_grad][::-1]
        self.places = [param for _, param in named]
        self.layout = Layout([name for name, _ in named], [tuple(param.shape) for param in self.places])
        start = torch.cat([param.detach().flatten() for param in self.places])
        self.thetas = start.repeat(workers, 1)
        self.gradients = torch.zeros_like(self.thetas)
        self.rows = [list(self.layout.cut(theta).values()) for theta in self.thetas]
        self.gradient_rows = [list(self.layout.cut(gradient).values()) for gradient in self.gradients]
        for row, gradients in zip(self.rows, self.gradient_rows, strict=True):
            for param, gradient in zip(row, gradients, strict=True):
                param.requires_grad_().grad = gradient
        self.buffers = [[buffer.clone() for buffer in model.buffers()] for _ in range(workers)]

    @property
    def parameters(self) -> list[Tensor]:
        """All workers' parameters."""
        return [param for row in self.rows for param in row]

    def be(self, worker: int) -> None:
        """Make the module this worker's, until the next call."""
        self._take(self.rows[worker], worker)

    def be_at(self, anchor: Tensor) -> None:
        """Make the module that of parameters f[d], with the buffers of worker 0."""
        self._take(list(self.layout.cut(anchor).values()), 0)

    def _take(self, row: list[Tensor], worker: int) -> None:
        for place, param in zip(self.places, row, strict=True):
            place.data = param.detach()
        for place, buffer in zip(self.model.buffers(), self.buffers[worker], strict=True):
            place.data = buffer

    def average_buffers(self) -> None:
        """Average the running statistics over the workers; what is counted is worker 0's."""
        for copies in zip(*self.buffers, strict=True):
            mean = torch.stack(copies).mean(0) if copies[0].is_floating_point() else copies[0].clone()
            for copy in copies:
                copy.copy_(mean)
