"""`gradwire.load`: read every rank's own state from a folder, or the mean of all if the number of workers differs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gradwire.checkpoint import merge
from gradwire.folder.hooks import Hooks, Saved, listed, place
from gradwire.folder.manifest import File, Manifest, Place, file_of, read
from gradwire.transport.allranks import AllRanks


def load(hooks: Hooks, folder: str | os.PathLike[str], *, group: dist.ProcessGroup | None = None) -> bool:
    """Continue from what `save` wrote into a folder, with any number of ranks. Every rank calls it, between steps.

    With the same number of workers, every worker gets its own state back, bit for bit. Otherwise all get
    `gradwire.merge` of all states, or, for a sharded model, of all states of the same part.

    Args:
        hooks: as many hooks as were saved, in the same order.
        folder: the same on all ranks, on a file system that all ranks share.
        group: the ranks that call it; all ranks by default.

    Returns:
        True if a save was loaded. If the folder contains none, it warns, returns False and changes no memory.

    Raises:
        ValueError: on every rank: the save is not complete, a file is missing or is not the one that was saved, or a
            state does not fit. Then nothing has changed on any rank.
    """
    all_ranks, path = AllRanks(group), Path(folder)
    found = all_ranks.do(lambda: listed(hooks, all_ranks.size))
    manifest = all_ranks.do(lambda: read(path))
    seen = all_ranks.gather_text("" if manifest is None else manifest.save)
    if (other := next((rank for rank, save in enumerate(seen) if save != seen[0]), None)) is not None:
        raise ValueError(f"ranks 0 and {other} see different things in {path}: all ranks must share the folder")
    if manifest is None:
        warnings.warn(f"{path} holds no state of gradwire: memories start at zero", stacklevel=2)
        return False
    states = all_ranks.do(lambda: _states(manifest, _Files(path, all_ranks.rank), found))
    load_all(all_ranks, found, states)
    return True


def _states(manifest: Manifest, files: _Files, hooks: Sequence[Saved]) -> list[dict[str, Any]]:
    """Return this rank's state of every hook (ValueError: another number of hooks was saved)."""
    if len(manifest.steps) != len(hooks):
        raise ValueError(f"{files.folder} holds {len(manifest.steps)} hooks' states, and {len(hooks)} are to be loaded")
    return [_state(manifest.files, files, number, place(hook)) for number, hook in enumerate(hooks)]


def _state(saved: Sequence[File], files: _Files, number: int, mine: Place) -> dict[str, Any]:
    """Return the state of hook `number` for this place: what was saved there, or the mean over its part's workers."""
    if saved[0].places[number].parts != mine.parts:
        raise ValueError(
            f"the model was saved in {saved[0].places[number].parts} shards and is in {mine.parts} now: save and load "
            "through torch.distributed.checkpoint with gradwire.Stateful, which deals shards anew"
        )
    own = next((file for file in saved if file.name == file_of(files.rank) and file.places[number] == mine), None)
    if own is not None:
        return files.states(own)[number]
    found: dict[int, File] = {}  # by worker; if several ranks of an island are one worker, the first rank's
    for file in saved:
        if file.places[number].part == mine.part:
            found.setdefault(file.places[number].rank, file)
    workers = [found[worker] for worker in sorted(found)]
    if len(workers) == mine.size:
        return files.states(workers[mine.rank])[number]
    return merge([files.states(file)[number] for file in workers])


class _Files:
    """The files of a folder, checked and memory-mapped once; tensors are read from the disk when they are used."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self._opened: dict[str, list[dict[str, Any]]] = {}

    def states(self, file: File) -> list[dict[str, Any]]:
        """Return every hook's state in a file (ValueError: the file is missing or damaged)."""
        if file.name not in self._opened:
            path = file.check(self.folder)
            self._opened[file.name] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["states"]
        return self._opened[file.name]


def load_all(all_ranks: AllRanks, hooks: Sequence[Saved], states: Sequence[dict[str, Any]]) -> None:
    """Load the states of all hooks or of none (ValueError).

    A hook's own `load_state_dict` changes all of its ranks or none; if one refuses, the hooks before it are restored.
    """
    before = all_ranks.do(lambda: [hook.state_dict() for hook in hooks])
    loaded: list[int] = []

    def load_one(number: int) -> None:
        hooks[number].load_state_dict(states[number])
        loaded.append(number)

    for number in range(len(hooks)):
        try:
            all_ranks.do(lambda number=number: load_one(number))
        except ValueError:
            for each in loaded:
                hooks[each].load_state_dict(before[each])
            raise
