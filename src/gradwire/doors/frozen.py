"""Parameters that are frozen when a door opens. If they are unfrozen later, no door averages their gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gradwire.checkpoint import plain


def frozen_parameters(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters that do not require a gradient, by name."""
    return [(plain(name), param) for name, param in model.named_parameters() if not param.requires_grad]


def unfrozen(frozen: Sequence[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first of these parameters that has been unfrozen and has a gradient; None if none has."""
    return next((name for name, param in frozen if param.requires_grad and param.grad is not None), None)
