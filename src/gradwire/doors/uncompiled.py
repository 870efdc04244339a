"""The module inside torch.compile's wrapper."""

from __future__ import annotations

from typing import cast

from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that torch.compile has wrapped, or the model itself."""
    return cast(nn.Module, getattr(model, "_orig_mod", model))
