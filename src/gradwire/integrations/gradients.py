"""The integrations' common part for `gradwire.attach`, which attaches to the framework's own DDP model.

It also warns of other messages that DDP or the framework sends at every step.
"""

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
"""A partial of `gradwire.attach`, such as `functools.partial(gradwire.attach, exchange="ef(topk(density=0.01))")`."""


def opening(exchange: Exchange | str | Opens) -> Opens:
    """Return a partial of `gradwire.attach` for an exchange or its spec (SpecError, TypeError)."""
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
    """Describe the messages that DDP sends at every step besides gradients, and how to avoid them."""
    found = list[str]()
    if ddp.find_unused_parameters:
        found.append("DDP all-reduces which parameters were used (find_unused_parameters=False stops it)")
    buffers = sum(buffer.nbytes for buffer in cast(nn.Module, ddp.module).buffers())
    if buffers and ddp.broadcast_buffers:
        found.append(f"DDP broadcasts {buffers:,} bytes of buffers (broadcast_buffers=False stops it)")
    return found


def warn_of(found: list[str]) -> None:
    """Warn of messages at every step that gradwire does not compress, if there are any."""
    if found:
        log.warning("gradwire: on a slow link this costs a round trip at every step: %s", "; ".join(found))


def warn_of_one_process(framework: str, *, wrapped: bool) -> None:
    """Warn that a single process exchanges nothing, and whether its gradients pass through the exchange anyway."""
    then = "gradients still pass through the exchange" if wrapped else "gradwire has no effect"
    log.warning("gradwire: %s runs one process, so nothing is exchanged; %s", framework, then)
