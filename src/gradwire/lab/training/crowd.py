"""n workers with different models, in one process: their parameters are the rows of one tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradwire.layout import Layout


class Crowd:
    """The models of n workers, equal at first, and one module into which any of them can be loaded.

    Gradients are computed in a loop over the workers. For a GPT of 0.8 M parameters on one thread that is as fast as
    `torch.func.vmap`; one batch of all workers' samples would be a tenth faster.

    thetas, gradients: f[n, d], all workers' parameters and gradients. parameters: views of thetas as tensors, with
    views of gradients as their `grad`, so that one optimizer steps all workers in one call. buffers: for each worker, a
    copy of the module's buffers.
    """

    def __init__(self, model: nn.Module, workers: int) -> None:
        self.model = model
        # The last parameter first, in the engine's order, so that both draw the same random numbers.
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

    def load_worker(self, worker: int) -> None:
        """Let the module use a worker's parameters and buffers, until the next call."""
        self._load(self.rows[worker], worker)

    def load_anchor(self, anchor: Tensor) -> None:
        """Let the module use parameters f[d] and the buffers of worker 0, until the next call."""
        self._load(list(self.layout.cut(anchor).values()), 0)

    def _load(self, row: list[Tensor], worker: int) -> None:
        for place, param in zip(self.places, row, strict=True):
            place.data = param.detach()
        for place, buffer in zip(self.model.buffers(), self.buffers[worker], strict=True):
            place.data = buffer

    def average_buffers(self) -> None:
        """Average floating-point buffers (running statistics) over the workers; others become worker 0's."""
        for copies in zip(*self.buffers, strict=True):
            mean = torch.stack(copies).mean(0) if copies[0].is_floating_point() else copies[0].clone()
            for copy in copies:
                copy.copy_(mean)
