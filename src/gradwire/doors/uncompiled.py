"""Models without what torch.compile puts around them."""

from __future__ import annotations

from typing import cast

from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """The module itself, if torch.compile has wrapped it."""
    return cast(nn.Module, getattr(model, "_orig_mod", model))
