"""Handlers: objects from which Accelerate reads DDP's arguments, and to which it passes the DDP model that it has made.

They do not derive from Accelerate's handlers, which are copied field by field; a running hook cannot be copied.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# Accelerate has no types.

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from accelerate import Accelerator
from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs
from torch import nn

import gradwire
from gradwire.auto import Auto
from gradwire.doors import Hook
from gradwire.integrations.gradients import Opens, attach_to, log
from gradwire.integrations.rounds import alone

FOLDER = "gradwire"
"""The folder of gradwire's files in a checkpoint of Accelerate's or of Trainer's."""


class AsksDDP(Protocol):
    """Accelerate's handler for DDP: it returns DDP's arguments, and then receives the DDP model."""

    def to_kwargs(self) -> dict[str, Any]:
        """Return DDP's arguments."""
        ...

    def register_comm_hook(self, model: nn.Module) -> None:
        """Receive the DDP model."""
        ...


class AttachHandler:
    """Attaches to every model that Accelerate wraps in DDP.

    Attributes:
        hooks: one hook per model, in the order of their preparation.
    """

    def __init__(self, accelerator: Accelerator, opens: Opens) -> None:
        self._accelerator, self._opens, self._inner = accelerator, opens, inner_handler(accelerator)
        self.hooks: list[Hook | Auto] = []

    def to_kwargs(self) -> dict[str, Any]:
        """Return the DDP arguments of the handler that was set before."""
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
        """Load every rank's memories. A single process has none, and warns."""
        if self.hooks:
            gradwire.load(self.hooks, folder)
        elif folder.exists():
            log.warning("gradwire: one process has no memories, so those in %s are not loaded", folder)


class AloneHandler:
    """Lets Accelerate wrap a model in DDP over this rank alone."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._inner = inner_handler(accelerator)

    def to_kwargs(self) -> dict[str, Any]:
        """Return the former handler's DDP arguments, with a process group of this rank alone."""
        return ({} if self._inner is None else self._inner.to_kwargs()) | {"process_group": alone()}

    def register_comm_hook(self, model: nn.Module) -> None:
        """Leave the DDP model as it is."""


def inner_handler(accelerator: Accelerator) -> AsksDDP | None:
    """Return the accelerator's present handler for DDP (ValueError: gradwire cannot attach to its models)."""
    kind = str(accelerator.distributed_type.value)
    if wraps(accelerator) and not kind.startswith("MULTI_"):
        raise ValueError(f"gradwire comes between DDP and its gradients here, and this accelerator is set to {kind}")
    inner = accelerator.ddp_handler
    if isinstance(inner, DistributedDataParallelKwargs) and inner.comm_hook != DDPCommunicationHookType.NO:
        raise ValueError(f"DDP takes one communication hook, and Accelerate's comm_hook is {inner.comm_hook} already")
    return cast("AsksDDP | None", inner)


def wraps(accelerator: Accelerator) -> bool:
    """Whether the accelerator wraps models in DDP. A single process does so only under torchrun."""
    return str(accelerator.distributed_type.value) != "NO"
