"""Strategies for Lightning's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn

import gradwire
from gradwire.auto import Auto
from gradwire.doors import Hook, Local
from gradwire.exchange import Exchange
from gradwire.integrations.gradients import Opens, attach_to, opening, warn_of_one_process
from gradwire.integrations.lightning import beside
from gradwire.integrations.rounds import LocalState, Starts, alone


class AttachStrategy(DDPStrategy):
    """DDP whose gradients are averaged through an exchange.

    Args:
        exchange: an exchange or its spec, "auto", or `functools.partial(gradwire.attach, exchange=..., seed=...)`.
        ddp: arguments of Lightning's own `DDPStrategy`.

    Attributes:
        hook: what `gradwire.attach` has returned, once `fit` has begun. A second `fit` makes a new one.
    """

    def __init__(self, exchange: Exchange | str | Opens, **ddp: Any) -> None:
        super().__init__(**ddp)
        self._opens, self._resume = opening(exchange), list[tuple[str | Path, Any]]()
        self.hook: Hook | Auto | None = None

    def configure_ddp(self) -> None:
        """Wrap the model, attach, and load memories; Lightning has read the checkpoint by now."""
        super().configure_ddp()
        if self.world_size == 1:
            warn_of_one_process("Lightning", wrapped=True)
        plugin = self.precision_plugin
        scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
        self.hook = hook = attach_to(self.model, self._opens, scaler)
        while self._resume:
            beside.load([hook], *self._resume.pop())

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; memories are loaded later, because the model is not wrapped yet."""
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        if _fitting(self):
            self._resume = [(checkpoint_path, checkpoint.get(beside.STAMP))]
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Save every rank's memories beside the file that rank 0 writes."""
        kept = [] if self.hook is None else [self.hook]
        super().save_checkpoint(checkpoint | {beside.STAMP: beside.steps(kept)}, filepath, storage_options)
        beside.save(kept, filepath)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove the memories with the file."""
        _remove(self, filepath)
        super().remove_checkpoint(filepath)

    def teardown(self) -> None:
        """Close the hook before Lightning releases the model."""
        if self.hook is not None:
            self.hook.close()
        super().teardown()


class LocalStrategy(DDPStrategy):
    """Local steps: every rank trains by itself, in rounds, which end before every validation and save, and at the end.

    Args:
        start: `gradwire.local`, or `functools.partial(gradwire.local, every=20)`.
        ddp: arguments of Lightning's own `DDPStrategy`.

    Attributes:
        local: the running local training, once `fit` has begun.
    """

    def __init__(self, start: Starts = gradwire.local, **ddp: Any) -> None:
        super().__init__(**ddp)
        self._start, self._resume = start, list[tuple[str | Path, Any]]()
        self._state: LocalState | None = None
        self._running = False

    @property
    def local(self) -> Local | None:
        """The running local training; None before `fit`."""
        return None if self._state is None else self._state.local

    def configure_ddp(self) -> None:
        """Wrap the model in DDP over this rank alone."""
        self._ddp_kwargs = {**self._ddp_kwargs, "process_group": alone()}
        super().configure_ddp()

    def setup(self, trainer: Trainer) -> None:
        """Start local training with the model that Lightning has loaded."""
        super().setup(trainer)
        if _fitting(self) and self.model is not None:
            self._state = LocalState(self._start(self.model, self.optimizers), self.optimizers)
            self._running = True

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; the state of the rounds is loaded after the optimizers."""
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        if _fitting(self):
            self._resume = [(checkpoint_path, checkpoint.get(beside.STAMP))]
        return checkpoint

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Load rank 0's optimizers, and then every rank's own optimizers and rounds."""
        super().load_optimizer_state_dict(checkpoint)
        while self._resume and self._state is not None:
            beside.load([self._state], *self._resume.pop())

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """End the round, in place, so that all ranks share the model that is saved, and save every rank's state."""
        kept = [] if self._state is None else [self._state]
        self._finish()
        super().save_checkpoint(checkpoint | {beside.STAMP: beside.steps(kept)}, filepath, storage_options)
        beside.save(kept, filepath)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove the state of the rounds with the file."""
        _remove(self, filepath)
        super().remove_checkpoint(filepath)

    def on_validation_start(self) -> None:
        """End the round, so that all ranks validate the same model."""
        self._finish()
        super().on_validation_start()

    def on_train_end(self) -> None:
        """End the round, so that all ranks end with the same model."""
        self._finish()
        super().on_train_end()

    def teardown(self) -> None:
        """Close local training before Lightning releases the model."""
        if self.local is not None:
            self.local.close()
        self._running = False
        super().teardown()

    def _finish(self) -> None:
        if self.local is not None and self._running:
            self.local.finish()


def _fitting(strategy: DDPStrategy) -> bool:
    """Whether Lightning is in `fit`, and not in validation or prediction alone."""
    module = strategy.lightning_module
    return module is not None and module.trainer.state.fn == TrainerFn.FITTING


def _remove(strategy: DDPStrategy, filepath: str | Path) -> None:
    if strategy.is_global_zero:
        beside.remove(filepath)
