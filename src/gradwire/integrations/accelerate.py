"""Accelerate: `attach(accelerator, exchange)` before `accelerator.prepare`, or `prepare_local` in its place.

    accelerator = Accelerator()
    handler = attach(accelerator, "ef(deft(density=0.01))")
    model, optimizer = accelerator.prepare(model, optimizer)

`accelerator.save_state` and `load_state` also save and load every rank's memories, in a folder `gradwire` inside
Accelerate's.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# Accelerate has no types.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]
from torch.optim.optimizer import Optimizer

import gradwire
from gradwire.doors import Local
from gradwire.exchange import Exchange
from gradwire.integrations.gradients import Opens, opening, warn_of_one_process
from gradwire.integrations.handlers import FOLDER, AloneHandler, AttachHandler, wraps
from gradwire.integrations.rounds import LocalState, Starts


def attach(accelerator: Accelerator, exchange: Exchange | str | Opens) -> AttachHandler:
    """Average the gradients of every model that this accelerator prepares through an exchange.

    Call it before `accelerator.prepare`, on every rank. An fp16 accelerator's scaler is passed on.

    Args:
        accelerator: an accelerator that uses DDP, on GPUs or CPUs.
        exchange: an exchange or its spec, "auto", or `functools.partial(gradwire.attach, exchange=..., seed=...)`.

    Returns:
        The handler that attaches; `.hooks` contains one hook per prepared model.

    Raises:
        ValueError: the spec is invalid; the accelerator uses FSDP, DeepSpeed or the like, or a comm_hook of its own.
        RuntimeError: a model has been prepared already.
    """
    handler = AttachHandler(accelerator, opening(exchange))
    if accelerator._models:  # pyright: ignore[reportPrivateUsage] - there is no public way to ask
        raise RuntimeError("attach comes before accelerator.prepare: a model has been prepared already")
    accelerator.ddp_handler = cast(Any, handler)
    accelerator.register_save_state_pre_hook(handler.save_state)
    accelerator.register_load_state_pre_hook(handler.load_state)
    if accelerator.num_processes == 1:
        warn_of_one_process("Accelerate", wrapped=wraps(accelerator))
    return handler


def prepare_local(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    start: Starts = gradwire.local,
) -> tuple[nn.Module, Any, Local]:
    """Prepare a model and its optimizer for local steps, in place of `accelerator.prepare`. Every rank calls it.

    `save_state` ends a round, so that it saves a model that all ranks share. A single process opens a process group of
    its own.

    Args:
        accelerator: an accelerator that uses DDP, on GPUs or CPUs, or a single process. It prepares loaders and
            schedulers as usual.
        model: a module without a wrapper.
        optimizer: one or several; the last one's steps are counted.
        start: `gradwire.local`, or `functools.partial(gradwire.local, every=20)`.

    Returns:
        The prepared model, the prepared optimizer or optimizers, and the running local training.

    Raises:
        ValueError: the accelerator uses FSDP, DeepSpeed or the like, or `gradwire.local` refuses its arguments.
    """
    before, accelerator.ddp_handler = accelerator.ddp_handler, cast(Any, AloneHandler(accelerator))
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    several = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    try:
        model, *prepared = accelerator.prepare(model, *several)
    finally:
        accelerator.ddp_handler = before
    inner = [one.optimizer for one in prepared]  # Accelerate's wrapper has no hooks of its own
    local = start(model, inner)
    _save_rounds(accelerator, LocalState(local, inner))
    return model, prepared if isinstance(optimizer, Sequence) else prepared[0], local


def _save_rounds(accelerator: Accelerator, state: LocalState) -> None:
    """End a round before every save, and load after Accelerate has loaded rank 0's model and optimizer on all ranks."""
    waiting: set[int] = set()
    folders: list[Path] = []

    def save(_models: object, _weights: object, folder: str) -> None:
        state.local.finish()  # in place, so it also updates the weights that Accelerate has collected already
        gradwire.save(state, Path(folder) / FOLDER)

    def begin(_models: object, folder: str) -> None:
        folders[:] = [Path(folder) / FOLDER]
        waiting.update(map(id, state.optimizers))

    def loaded(optimizer: Optimizer) -> None:
        waiting.discard(id(optimizer))
        if folders and not waiting and not gradwire.load(state, folders.pop()):
            state.anchor_here()

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(begin)
    for optimizer in state.optimizers:
        optimizer.register_load_state_dict_post_hook(loaded)
