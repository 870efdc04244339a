"""Folders beside Lightning's checkpoint files, and a stamp by which a file and its folder are matched.

Rank 0 writes the file, and then all ranks write the folder. A run may be killed in between, and files such as
`last.ckpt` are overwritten repeatedly. So both contain the number of exchanges so far.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import gradwire
from gradwire.auto import Auto
from gradwire.doors import Hook
from gradwire.integrations.gradients import log
from gradwire.integrations.rounds import LocalState

STAMP = "gradwire_steps"
"""The key in a checkpoint file of every hook's number of exchanges."""

Kept: TypeAlias = Hook | Auto | LocalState


def folder(path: str | Path) -> Path:
    """Return the folder beside a checkpoint file (ValueError: the path is a URL)."""
    if "://" in str(path):
        raise ValueError(f"gradwire saves to a folder beside the checkpoint, which {path} has not")
    return Path(f"{path}.gradwire")


def steps(kept: Sequence[Kept]) -> list[int]:
    """Return every hook's number of exchanges."""
    return [(each.local if isinstance(each, LocalState) else each).step for each in kept]


def save(kept: Sequence[Kept], path: str | Path) -> None:
    """Save every rank's state beside a checkpoint that rank 0 has written."""
    if kept:
        gradwire.save(kept, folder(path))


def load(kept: Sequence[Kept], path: str | Path, stamp: Any) -> bool:
    """Load the folder beside a checkpoint file, if the file has a stamp; return whether a state was loaded.

    Raises:
        ValueError: on every rank: the folder does not match the stamp, or `gradwire.load` refuses it.
    """
    if stamp is None:
        log.warning("gradwire: %s was saved without gradwire, so memories start at zero", path)
        return False
    loaded = gradwire.load(kept, folder(path))
    if loaded and steps(kept) != list(stamp):
        raise ValueError(
            f"{path} was saved after {stamp} exchanges and {folder(path)} after {steps(kept)}: the run was "
            "stopped between the two; resume from an older checkpoint"
        )
    return loaded


def remove(path: str | Path) -> None:
    """Remove the folder beside a checkpoint file."""
    shutil.rmtree(folder(path), ignore_errors=True)
