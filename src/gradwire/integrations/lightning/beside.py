"""Folders beside Lightning's checkpoint files, and how the two are known to belong together.

Rank 0 writes the file, and all ranks write the folder after it. A run may be killed in between, and files such as
`last.ckpt` are written again and again. So the file tells at how many exchanges it was taken, and so does the folder.
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
"""The name in a checkpoint file under which every hook's number of exchanges stands."""

Kept: TypeAlias = Hook | Auto | LocalState


def folder(path: str | Path) -> Path:
    """The folder beside a checkpoint file (ValueError where there can be none)."""
    if "://" in str(path):
        raise ValueError(f"gradwire saves to a folder beside the checkpoint, which {path} has not")
    return Path(f"{path}.gradwire")


def steps(kept: Sequence[Kept]) -> list[int]:
    """Every hook's number of exchanges."""
    return [(each.local if isinstance(each, LocalState) else each).step for each in kept]


def save(kept: Sequence[Kept], path: str | Path) -> None:
    """Save every rank's state beside a checkpoint that rank 0 has written."""
    if kept:
        gradwire.save(kept, folder(path))


def load(kept: Sequence[Kept], path: str | Path, stamp: Any) -> bool:
    """Load what lies beside a checkpoint, if the checkpoint says that something does.

    Raises:
        ValueError: on every rank: the two were not taken at the same moment; or whatever `gradwire.load` refuses.
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
    """Remove the folder with its checkpoint."""
    shutil.rmtree(folder(path), ignore_errors=True)
