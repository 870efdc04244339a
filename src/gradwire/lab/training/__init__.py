"""Train a task with n workers and any exchange: in one process in lockstep, or on real ranks."""

from __future__ import annotations

from gradwire.lab.training.local import Local
from gradwire.lab.training.loop import train
from gradwire.lab.training.on_ranks import train_on_ranks
from gradwire.lab.training.settings import DENSE, Evaluation, Event, History, Step, Training

__all__ = ["DENSE", "Evaluation", "Event", "History", "Local", "Step", "Training", "train", "train_on_ranks"]
