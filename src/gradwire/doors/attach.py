"""`attach` with a named exchange: it checks the arguments and chooses the door for the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradwire.doors.arguments import as_seed, as_unit_bytes, check_lr, check_mode, check_scaling
from gradwire.doors.ddp import attach_ddp
from gradwire.doors.group import Group, as_group
from gradwire.doors.hook import Hook
from gradwire.doors.module import attach_module
from gradwire.doors.uncompiled import uncompiled
from gradwire.engine import Reduce, Scaler
from gradwire.exchange import Exchange
from gradwire.spec import as_exchange


def attach(
    model: nn.Module,
    exchange: Exchange | str,
    seed: int = 0,
    bucket_mb: float | None = None,
    scaler: Scaler | None = None,
    lr: Callable[[], float] | None = None,
    group: Group | None = None,
    *,
    find_unused_parameters: bool = False,
    reduce: Reduce = "mean",
) -> Hook:
    """Attach an exchange to a model; see `gradwire.attach` (auto.py), which also handles "auto"."""
    check_mode("attach")
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"attach takes a module, wrapped in DistributedDataParallel or bare, got {type(model).__name__}"
        )
    model = uncompiled(model)
    exchange = as_exchange(exchange, "attach")
    check_scaling(scaler, lr)
    check_lr(exchange, lr)
    if reduce not in get_args(Reduce):
        raise ValueError(f"reduce must be 'mean' or 'sum', got {reduce!r}")
    seed, unit_bytes = as_seed(seed), None if bucket_mb is None else as_unit_bytes(bucket_mb)
    if isinstance(model, DistributedDataParallel):
        if group is not None or find_unused_parameters:
            raise ValueError("a DDP model brings its own group and find_unused_parameters; give neither to attach")
        return attach_ddp(model, exchange, seed, unit_bytes, scaler, lr, reduce)
    ranks, unused = as_group(group, "attach"), find_unused_parameters
    return attach_module(model, exchange, seed, unit_bytes, scaler, lr, ranks, find_unused=unused, reduce=reduce)
