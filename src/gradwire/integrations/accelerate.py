"""Accelerate: `attach(accelerator, exchange)` before `accelerator.prepare`, or `prepare_local` in its place.

    accelerator = Accelerator()
    handler = attach(accelerator, "ef(deft(density=0.01))")
    model, optimizer = accelerator.prepare(model, optimizer)

`accelerator.save_state` and `load_state` save and load every rank's memories too, in a folder `gradwire` inside theirs.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# Accelerate has no types.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs
from torch import nn
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]
from torch.optim.optimizer import Optimizer

import gradwire
from gradwire.auto import Auto
from gradwire.doors import Hook, Local
from gradwire.exchange import Exchange
from gradwire.integrations.gradients import Opens, attach_to, log, opening, warn_of_one_process
from gradwire.integrations.rounds import LocalState, Starts, alone

FOLDER = "gradwire"
"""Where gradwire's files lie in a checkpoint of Accelerate's or of Trainer's."""


class AsksDDP(Protocol):
    """What Accelerate keeps for DDP: it is asked for DDP's arguments, and then shown the DDP model."""

    def to_kwargs(self) -> dict[str, Any]:
        """Return DDP's arguments."""
        ...

    def register_comm_hook(self, model: nn.Module) -> None:
        """Take the DDP model."""
        ...


class AttachHandler:
    """Attaches to every model that Accelerate wraps in DDP.

    A plain object, for Accelerate copies its own handlers field by field, which hooks cannot stand.

    Attributes:
        hooks: one for every model, in the order in which they were prepared.
    """

    def __init__(self, accelerator: Accelerator, opens: Opens) -> None:
        self._accelerator, self._opens, self._inner = accelerator, opens, inner_handler(accelerator)
        self.hooks: list[Hook | Auto] = []

    def to_kwargs(self) -> dict[str, Any]:
        """Return DDP's arguments, as they were set before."""
        return {} if self._inner is None else self._inner.to_kwargs()

    def register_comm_hook(self, model: nn.Module) -> None:
        """Attach to the DDP model."""
        self.hooks.append(attach_to(model, self._opens, self._accelerator.scaler))

    def save_state(self, _models: object, _weights: object, folder: str) -> None:
        """Save memories with Accelerate's state."""
        self.save(Path(folder) / FOLDER)

    def load_state(self, _models: object, folder: str) -> None:
        """Load memories with Accelerate's state."""
        self.load(Path(folder) / FOLDER)

    def save(self, folder: Path) -> None:
        """Save every rank's memories."""
        if self.hooks:
            gradwire.save(self.hooks, folder)
        elif wraps(self._accelerator):
            raise RuntimeError("Accelerate has wrapped no model since gradwire was attached: attach before prepare")

    def load(self, folder: Path) -> None:
        """Load them; one process has none, and says so."""
        if self.hooks:
            gradwire.load(self.hooks, folder)
        elif folder.exists():
            log.warning("gradwire: one process has no memories, so those in %s are left behind", folder)


class AloneHandler:
    """Lets Accelerate wrap a model in DDP over this rank alone."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._inner = inner_handler(accelerator)

    def to_kwargs(self) -> dict[str, Any]:
        """Return DDP's arguments with a group of this rank alone."""
        return ({} if self._inner is None else self._inner.to_kwargs()) | {"process_group": alone()}

    def register_comm_hook(self, model: nn.Module) -> None:
        """Leave the DDP model as it is."""


def attach(accelerator: Accelerator, exchange: Exchange | str | Opens) -> AttachHandler:
    """Let every model that this accelerator prepares average its gradients through an exchange.

    Call it before `accelerator.prepare`, on every rank. An fp16 accelerator's scaler goes along.

    Args:
        accelerator: set to DDP, on GPUs or CPUs.
        exchange: an exchange or its spec, "auto", or `functools.partial(gradwire.attach, exchange=..., seed=...)`.

    Raises:
        ValueError: a bad spec; FSDP, DeepSpeed or the like; a comm_hook of Accelerate's own.
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

    `save_state` ends a round, so that the model it saves is all ranks'. One process makes itself a process group.

    Args:
        accelerator: set to DDP, on GPUs or CPUs, or of one process. It prepares loaders and schedulers as ever.
        model: a bare module.
        optimizer: one or several; the last one's steps are counted.
        start: `gradwire.local`, or `functools.partial(gradwire.local, every=20)`.

    Returns:
        What Accelerate has made of model and optimizer, and the running local steps.

    Raises:
        ValueError: FSDP, DeepSpeed or the like; whatever `gradwire.local` refuses.
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


def inner_handler(accelerator: Accelerator) -> AsksDDP | None:
    """What asks DDP's arguments today. Refuses an accelerator whose models cannot be attached to (ValueError)."""
    kind = str(accelerator.distributed_type.value)
    if wraps(accelerator) and not kind.startswith("MULTI_"):
        raise ValueError(f"gradwire comes between DDP and its gradients here, and this accelerator is set to {kind}")
    inner = accelerator.ddp_handler
    if isinstance(inner, DistributedDataParallelKwargs) and inner.comm_hook != DDPCommunicationHookType.NO:
        raise ValueError(f"DDP takes one communication hook, and Accelerate's comm_hook is {inner.comm_hook} already")
    return cast("AsksDDP | None", inner)


def wraps(accelerator: Accelerator) -> bool:
    """Whether it wraps models in DDP at all: also one process under torchrun, but not one that was started plainly."""
    return str(accelerator.distributed_type.value) != "NO"


def _save_rounds(accelerator: Accelerator, state: LocalState) -> None:
    """End a round before a save, and load after Accelerate has loaded rank 0's model and optimizer everywhere."""
    waiting: set[int] = set()
    folders: list[Path] = []

    def save(_models: object, _weights: object, folder: str) -> None:
        state.local.finish()  # in place, so the weights that Accelerate has collected already are these
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
