"""Strategies for Lightning's Fabric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.precision import MixedPrecision
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer

import gradwire
from gradwire.auto import Auto
from gradwire.doors import Hook, Local
from gradwire.exchange import Exchange
from gradwire.integrations.gradients import Opens, attach_to, opening, warn_of_one_process
from gradwire.integrations.lightning import beside
from gradwire.integrations.rounds import LocalState, Starts, alone


class FabricAttachStrategy(DDPStrategy):
    """DDP whose gradients are averaged through an exchange.

    Args:
        exchange: an exchange or its spec, "auto", or `functools.partial(gradwire.attach, exchange=..., seed=...)`.
        ddp: arguments of Fabric's own `DDPStrategy`.

    Attributes:
        hooks: one hook per model that `fabric.setup` has wrapped.
    """

    def __init__(self, exchange: Exchange | str | Opens, **ddp: Any) -> None:
        super().__init__(**ddp)
        self._opens = opening(exchange)
        self.hooks: list[Hook | Auto] = []

    def setup_module(self, module: nn.Module) -> DistributedDataParallel:
        """Wrap a model and attach to it."""
        ddp = super().setup_module(module)
        if self.world_size == 1:
            warn_of_one_process("Fabric", wrapped=True)
        plugin = self.precision
        self.hooks.append(attach_to(ddp, self._opens, plugin.scaler if isinstance(plugin, MixedPrecision) else None))
        return ddp

    def save_checkpoint(
        self, path: str | Path, state: dict[str, Any], storage_options: Any = None, filter: Any = None
    ) -> None:
        """Save every rank's memories beside the file that rank 0 writes."""
        super().save_checkpoint(path, state | {beside.STAMP: beside.steps(self.hooks)}, storage_options, filter)
        beside.save(self.hooks, path)

    def load_checkpoint(
        self, path: str | Path, state: Any = None, strict: bool = True, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load every rank's memories after the file; a raw state dict of one model or optimizer has none."""
        found = super().load_checkpoint(path, state, strict, weights_only)
        if self.hooks and not isinstance(state, nn.Module | Optimizer):
            beside.load(self.hooks, path, found.pop(beside.STAMP, None))
        return found


class FabricLocalStrategy(DDPStrategy):
    """Local steps: every rank trains by itself, in rounds. `fabric.save` ends a round, as `finish` on `locals` does.

    Args:
        start: `gradwire.local`, or `functools.partial(gradwire.local, every=20)`.
        ddp: arguments of Fabric's own `DDPStrategy`.
    """

    def __init__(self, start: Starts = gradwire.local, **ddp: Any) -> None:
        super().__init__(**ddp)
        self._start, self._states = start, list[LocalState]()

    @property
    def locals(self) -> list[Local]:
        """The running local training of every model that `fabric.setup` has wrapped with its optimizers."""
        return [state.local for state in self._states]

    def setup_module(self, module: nn.Module) -> DistributedDataParallel:
        """Raise RuntimeError: local steps need the model's optimizers too."""
        raise RuntimeError("local steps need a model and its optimizers together: fabric.setup(model, optimizer)")

    def setup_module_and_optimizers(
        self, module: nn.Module, optimizers: list[Optimizer], scheduler: Any = None
    ) -> tuple[nn.Module, list[Optimizer], Any]:
        """Wrap a model in DDP over this rank alone, and start local training."""
        self._ddp_kwargs = {**self._ddp_kwargs, "process_group": alone()}
        ddp = super().setup_module(module)
        inner = [self.setup_optimizer(optimizer) for optimizer in optimizers]
        self._states.append(LocalState(self._start(ddp, inner), inner))
        return ddp, inner, scheduler

    def save_checkpoint(
        self, path: str | Path, state: dict[str, Any], storage_options: Any = None, filter: Any = None
    ) -> None:
        """End the round, so that all ranks share the saved model, and save every rank's state beside the file."""
        for local in self.locals:
            local.finish()
        super().save_checkpoint(path, state | {beside.STAMP: beside.steps(self._states)}, storage_options, filter)
        beside.save(self._states, path)

    def load_checkpoint(
        self, path: str | Path, state: Any = None, strict: bool = True, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load rank 0's model and optimizers from the file, and then every rank's own state."""
        found = super().load_checkpoint(path, state, strict, weights_only)
        raw = isinstance(state, nn.Module | Optimizer)
        if raw or (self._states and not beside.load(self._states, path, found.pop(beside.STAMP, None))):
            for each in self._states:
                each.anchor_here()
        return found
