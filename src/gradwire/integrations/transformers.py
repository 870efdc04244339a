"""Transformers' Trainer and its subclasses: one call after it is built.

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
    """Let a Trainer average its gradients through an exchange. Call it before `trainer.train`, on every rank.

    Args:
        trainer: a Trainer that uses DDP, or one process, which is left alone.
        exchange: an exchange or its spec, "auto", or `functools.partial(gradwire.attach, exchange=..., seed=...)`.
        resume_from: the checkpoint that `train` resumes from, if it does not lie in `args.output_dir`.

    Returns:
        What attaches when Trainer wraps the model; `.hooks` holds the hook from then on.

    Raises:
        ValueError: a bad spec; FSDP, DeepSpeed or the like.
        RuntimeError: the model is wrapped already; by `train`, that Trainer has not wrapped it.
    """
    handler = AttachHandler(trainer.accelerator, opening(exchange))
    _put_in(trainer, handler)
    trainer.add_callback(_SavesMemories(trainer, handler, resume_from))
    return handler


def local(trainer: Trainer, start: Starts = gradwire.local, resume_from: str | None = None) -> LocalRounds:
    """Let every rank of a Trainer train by itself, with rounds. Call it before `trainer.train`, on every rank.

    A round ends before every evaluation and save, and at the end, so that all ranks hold the model that Trainer sees.

    Args:
        trainer: a Trainer that uses DDP, or one process, which is left alone.
        start: `gradwire.local`, or `functools.partial(gradwire.local, every=20)`.
        resume_from: the checkpoint that `train` resumes from, if it does not lie in `args.output_dir`.

    Returns:
        A callback of the Trainer's; `.local` holds the running local steps once training has begun.

    Raises:
        ValueError: FSDP, DeepSpeed or the like; by `train`, whatever `gradwire.local` refuses.
        RuntimeError: the model is wrapped already.
    """
    _put_in(trainer, AloneHandler(trainer.accelerator))
    trainer.add_callback(rounds := LocalRounds(trainer, start, resume_from))
    return rounds


class LocalRounds(TrainerCallback):
    """Begins local steps when training begins, and ends rounds when others look at the model."""

    def __init__(self, trainer: Trainer, start: Starts, resume_from: str | None) -> None:
        self._trainer, self._start, self._resume_from = trainer, start, resume_from
        self.local: Local | None = None
        self._state: LocalState | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin with the model that Trainer has loaded, or go on where a checkpoint was taken."""
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
        """End the round if somebody looks next."""
        if self.local and (control.should_save or control.should_evaluate or control.should_training_stop):
            self.local.finish()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the round if somebody looks next."""
        self.on_step_end(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save every rank's rounds and optimizer, in the folder that Trainer has made."""
        if self._state is not None:
            gradwire.save(self._state, _folder(args, state, None))


class _SavesMemories(TrainerCallback):
    """Loads every rank's memories when training begins, and saves them when Trainer saves."""

    def __init__(self, trainer: Trainer, handler: AttachHandler, resume_from: str | None) -> None:
        self._trainer, self._handler, self._resume_from = trainer, handler, resume_from

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on where a checkpoint was taken. Refuses to train without an exchange (RuntimeError)."""
        if not self._handler.hooks and wraps(self._trainer.accelerator):
            raise RuntimeError("Trainer has not wrapped the model in DDP with gradwire's handler: nothing is attached")
        if state.global_step:
            self._handler.load(_folder(args, state, self._resume_from))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save every rank's memories, in the folder that Trainer has made."""
        self._handler.save(_folder(args, state, None))


def _put_in(trainer: Trainer, handler: AttachHandler | AloneHandler) -> None:
    """Give the Trainer's accelerator a handler, and say what Trainer itself sends."""
    if trainer.model_wrapped is not trainer.model:
        raise RuntimeError("gradwire comes before trainer.train: the model is wrapped already")
    trainer.accelerator.ddp_handler = cast(Any, handler)
    if trainer.args.world_size == 1:
        warn_of_one_process("Trainer", wrapped=wraps(trainer.accelerator))
    elif trainer.is_world_process_zero():
        warn_of(_gathers(trainer.args))


def _gathers(args: TrainingArguments) -> list[str]:
    """What Trainer sends at every step, and how to stop it."""
    found = list[str]()
    if args.average_tokens_across_devices:
        found.append("Trainer gathers numbers of tokens (average_tokens_across_devices=False stops it)")
    if args.logging_strategy == "steps" and args.logging_steps == 1:
        found.append("Trainer gathers losses to log them (logging_steps=50 does so every 50 steps)")
    return found


def _folder(args: TrainingArguments, state: TrainerState, resume_from: str | None) -> Path:
    """Where gradwire's files of this step lie: in the checkpoint that Trainer saves, or in the one it was told of."""
    return Path(resume_from or f"{args.output_dir}/checkpoint-{state.global_step}") / FOLDER
