"""Transformers' Trainer and its subclasses: one call after the Trainer is built.

    trainer = Trainer(model, args, train_dataset=data)
    attach(trainer, "ef(deft(density=0.01))")
    trainer.train()

Every `checkpoint-N` that Trainer saves gets a folder `gradwire` with every rank's memories.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch.optim.optimizer import Optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import gradwire
from gradwire.doors import Local
from gradwire.exchange import Exchange
from gradwire.integrations.gradients import Opens, opening, warn_of, warn_of_one_process
from gradwire.integrations.handlers import FOLDER, AloneHandler, AttachHandler, wraps
from gradwire.integrations.rounds import LocalState, Starts


def attach(trainer: Trainer, exchange: Exchange | str | Opens, resume_from: str | None = None) -> AttachHandler:
    """Average a Trainer's gradients through an exchange. Call it before `trainer.train`, on every rank.

    Args:
        trainer: a Trainer that uses DDP, or a single process, in which nothing changes.
        exchange: an exchange or its spec, "auto", or `functools.partial(gradwire.attach, exchange=..., seed=...)`.
        resume_from: the checkpoint from which `train` resumes, if it is not in `args.output_dir`.

    Returns:
        The handler that attaches when Trainer wraps the model; then `.hooks` contains the hook.

    Raises:
        ValueError: the spec is invalid, or the Trainer uses FSDP, DeepSpeed or the like.
        RuntimeError: the model is wrapped already; raised by `train`: Trainer has not wrapped the model.
    """
    handler = AttachHandler(trainer.accelerator, opening(exchange))
    _put_in(trainer, handler)
    trainer.add_callback(_SavesMemories(trainer, handler, resume_from))
    return handler


def local(trainer: Trainer, start: Starts = gradwire.local, resume_from: str | None = None) -> LocalRounds:
    """Train with local steps on every rank of a Trainer. Call it before `trainer.train`, on every rank.

    A round ends before every evaluation and save, and at the end, so that Trainer sees a model that all ranks share.

    Args:
        trainer: a Trainer that uses DDP, or a single process, in which nothing changes.
        start: `gradwire.local`, or `functools.partial(gradwire.local, every=20)`.
        resume_from: the checkpoint from which `train` resumes, if it is not in `args.output_dir`.

    Returns:
        The Trainer's callback; `.local` is the running local training once training has begun.

    Raises:
        ValueError: the Trainer uses FSDP, DeepSpeed or the like; raised by `train`: `gradwire.local` refuses its
            arguments.
        RuntimeError: the model is wrapped already.
    """
    _put_in(trainer, AloneHandler(trainer.accelerator))
    trainer.add_callback(rounds := LocalRounds(trainer, start, resume_from))
    return rounds


class LocalRounds(TrainerCallback):
    """Starts local training when training begins, and ends rounds before Trainer evaluates or saves the model."""

    def __init__(self, trainer: Trainer, start: Starts, resume_from: str | None) -> None:
        self._trainer, self._start, self._resume_from = trainer, start, resume_from
        self.local: Local | None = None
        self._state: LocalState | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start with the model that Trainer has loaded, or continue from a checkpoint."""
        if not wraps(self._trainer.accelerator):
            return
        if self._state is None:
            prepared = cast(Any, self._trainer.optimizer)
            inner: list[Optimizer] = [prepared.optimizer]  # Accelerate's wrapper has no hooks of its own
            self.local = self._start(self._trainer.model_wrapped, inner)
            self._state = LocalState(self.local, inner)
        elif not state.global_step:
            self._state.anchor_here()
        if state.global_step and not gradwire.load(self._state, _folder(args, state, self._resume_from)):
            self._state.anchor_here()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the round if Trainer evaluates, saves or stops next."""
        if self.local and (control.should_save or control.should_evaluate or control.should_training_stop):
            self.local.finish()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the round if Trainer evaluates, saves or stops next."""
        self.on_step_end(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save every rank's rounds and optimizer, in Trainer's checkpoint folder."""
        if self._state is not None:
            gradwire.save(self._state, _folder(args, state, None))


class _SavesMemories(TrainerCallback):
    """Loads every rank's memories when training begins, and saves them when Trainer saves."""

    def __init__(self, trainer: Trainer, handler: AttachHandler, resume_from: str | None) -> None:
        self._trainer, self._handler, self._resume_from = trainer, handler, resume_from

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Load a checkpoint's memories, if training resumes (RuntimeError: no model was attached to)."""
        if not self._handler.hooks and wraps(self._trainer.accelerator):
            raise RuntimeError("Trainer has not wrapped the model in DDP with gradwire's handler: nothing is attached")
        if state.global_step:
            self._handler.load(_folder(args, state, self._resume_from))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save every rank's memories, in Trainer's checkpoint folder."""
        self._handler.save(_folder(args, state, None))


def _put_in(trainer: Trainer, handler: AttachHandler | AloneHandler) -> None:
    """Set the handler of the Trainer's accelerator, and warn of messages that Trainer itself sends (RuntimeError)."""
    if trainer.model_wrapped is not trainer.model:
        raise RuntimeError("gradwire comes before trainer.train: the model is wrapped already")
    trainer.accelerator.ddp_handler = cast(Any, handler)
    if trainer.args.world_size == 1:
        warn_of_one_process("Trainer", wrapped=wraps(trainer.accelerator))
    elif trainer.is_world_process_zero():
        warn_of(_gathers(trainer.args))


def _gathers(args: TrainingArguments) -> list[str]:
    """Describe the messages that Trainer sends at every step, and how to avoid them."""
    found = list[str]()
    if args.average_tokens_across_devices:
        found.append("Trainer gathers numbers of tokens (average_tokens_across_devices=False stops it)")
    if args.logging_strategy == "steps" and args.logging_steps == 1:
        found.append("Trainer gathers losses to log them (logging_steps=50 does so every 50 steps)")
    return found


def _folder(args: TrainingArguments, state: TrainerState, resume_from: str | None) -> Path:
    """Return gradwire's folder in `resume_from`, if given, or in the checkpoint of the present step."""
    return Path(resume_from or f"{args.output_dir}/checkpoint-{state.global_step}") / FOLDER
