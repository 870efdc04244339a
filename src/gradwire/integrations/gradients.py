"""What all integrations share about `gradwire.attach`: the DDP model is the framework's, and sends other things too."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, TypeAlias, cast

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire
from gradwire.auto import AUTO, Auto
from gradwire.doors import Hook
from gradwire.engine import Scaler
from gradwire.exchange import Exchange
from gradwire.spec import as_exchange

log = logging.getLogger("gradwire")

Opens: TypeAlias = "partial[Any]"
"""`functools.partial(gradwire.attach, exchange="ef(topk(density=0.01))", seed=1)`: what takes a model and attaches."""


def opening(exchange: Exchange | str | Opens) -> Opens:
    """Make of an exchange, or of its spec, what attaches it to a model (ValueError, TypeError)."""
    if isinstance(exchange, partial):
        return exchange
    if not (isinstance(exchange, str) and exchange.strip().lower() == AUTO):
        exchange = as_exchange(exchange, "attach")
    return partial(gradwire.attach, exchange=exchange)


def attach_to(model: nn.Module | None, opens: Opens, scaler: Scaler | None) -> Hook | Auto:
    """Attach to the framework's DDP model, with the framework's scaler if it has one. Every rank calls it."""
    hook = opens(model, **({"scaler": scaler} | opens.keywords))
    if isinstance(model, DistributedDataParallel) and dist.get_rank() == 0:
        warn_of(traffic(model))
    return hook


def traffic(ddp: DistributedDataParallel) -> list[str]:
    """What DDP sends at every step beside gradients, and how to stop it."""
    found = list[str]()
    if ddp.find_unused_parameters:
        found.append("DDP all-reduces which parameters were used (find_unused_parameters=False stops it)")
    buffers = sum(buffer.nbytes for buffer in cast(nn.Module, ddp.module).buffers())
    if buffers and ddp.broadcast_buffers:
        found.append(f"DDP broadcasts {buffers:,} bytes of buffers (broadcast_buffers=False stops it)")
    return found


def warn_of(found: list[str]) -> None:
    """Name what travels at every step although gradwire compresses gradients; nothing if there is nothing."""
    if found:
        log.warning("gradwire: on a slow link this costs a round trip at every step: %s", "; ".join(found))


def warn_of_one_process(framework: str, *, wrapped: bool) -> None:
    """Say that nothing is exchanged, and whether gradients go through the exchange all the same."""
    then = "goes on with itself" if wrapped else "stays away"
    log.warning("gradwire: %s runs one process, so nothing is exchanged and gradwire %s", framework, then)
