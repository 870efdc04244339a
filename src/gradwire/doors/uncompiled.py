"""Models without what torch.compile puts around them, and parameters' names without what wrappers put into them."""

from __future__ import annotations

from typing import cast

from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """The module itself, if torch.compile has wrapped it."""
    return cast(nn.Module, getattr(model, "_orig_mod", model))


def plain(name: str) -> str:
    """A parameter's name in the module itself, so that a checkpoint fits with and without the wrappers."""
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")
