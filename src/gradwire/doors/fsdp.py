"""Modules that FSDP2 shards: how to find them, and how to make them gather parameters again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from torch import nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


def sharded_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules that `fully_shard` was called on, outer before inner.

    Raises:
        ValueError: a module is wrapped in FSDP1.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # a program that has not imported it has sharded nothing
    if fsdp is None:
        return []
    for module in model.modules():
        if isinstance(module, fsdp.FullyShardedDataParallel):
            raise ValueError(
                "the model is wrapped in FullyShardedDataParallel, which keeps parameters in flat pieces; "
                "shard it with torch.distributed.fsdp.fully_shard"
            )
    return [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]


def reshard(model: nn.Module) -> None:
    """Free gathered parameters. A forward pass alone leaves the root's gathered, and they would hide new shards."""
    for module in sharded_modules(model):
        cast("FSDPModule", module).reshard()
