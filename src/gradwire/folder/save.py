"""`gradwire.save`: the states of all ranks into one folder, completely or not at all.

    all ranks read their states -> rank 0 makes the old manifest void -> every rank writes its file -> rank 0 writes the
    manifest

All ranks agree after every arrow, so one that fails stops all. Killed at any moment, a save leaves what was there
before it began, a folder that `load` refuses, or a save that is complete.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gradwire.folder.files import digest, write_whole
from gradwire.folder.hooks import Hooks, Saved, listed, place
from gradwire.folder.manifest import FILES, FORMAT, MANIFEST, File, Manifest, file_of, parse, parse_file
from gradwire.transport.everyone import Everyone


def save(hooks: Hooks, folder: str | os.PathLike[str], *, group: dist.ProcessGroup | None = None) -> None:
    """Save the states of hooks on all ranks into a folder, which may hold other things. Every rank calls it.

    Every rank writes a file of its own, and rank 0 a manifest when all are on the disk. An earlier save in the
    folder is replaced: it is void from the first byte written.

    Args:
        hooks: what `attach` or `local` returned, or a list of them, between steps.
        folder: the same on all ranks, on a file system that all ranks share. Made if it is not there.
        group: the ranks that call it; all of them if left out.

    Raises:
        ValueError: on every rank: a state or a file could not be made on some rank, the ranks are at different steps,
            or they do not share the folder. What is in the folder then is refused by `load`.
    """
    everyone, path = Everyone(group), Path(folder)
    found = everyone.do(lambda: listed(hooks, everyone.size))
    states = everyone.do(lambda: [hook.state_dict(copy=False) for hook in found])
    begun = _begun(everyone, states)
    everyone.do(lambda: _void(begun, path) if everyone.rank == 0 else None)
    mine = everyone.do(lambda: _write(begun, path, everyone.rank, found, states))
    files = tuple(parse_file(json.loads(words)) for words in everyone.gather_text(json.dumps(asdict(mine))))
    complete = Manifest(begun.save, begun.steps, begun.exchanges, files)
    everyone.do(lambda: _complete(complete, path) if everyone.rank == 0 else None)


def _begun(everyone: Everyone, states: list[dict[str, Any]]) -> Manifest:
    """A manifest without files, the same on all ranks (ValueError)."""
    moments = everyone.gather_text(repr([(state["step"], state["exchange"]) for state in states]))
    if other := next((rank for rank, words in enumerate(moments) if words != moments[0]), None):
        raise ValueError(f"rank {other} saves {moments[other]} and rank 0 {moments[0]}: all ranks save at one step")
    name = everyone.gather_text(secrets.token_hex(8))[0]
    return Manifest(name, tuple(state["step"] for state in states), tuple(state["exchange"] for state in states))


def _void(begun: Manifest, folder: Path) -> None:
    """From here on what an earlier save left is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    begun.write(folder)


def _write(begun: Manifest, folder: Path, rank: int, hooks: list[Saved], states: list[dict[str, Any]]) -> File:
    """Write this rank's file, where rank 0 has begun."""
    seen = folder / MANIFEST
    if not seen.is_file() or parse(seen) != begun:
        raise ValueError(f"{seen}, which rank 0 has just written, is not seen here: all ranks must share the folder")
    path = folder / file_of(rank)
    write_whole(path, lambda file: torch.save({"format": FORMAT, "save": begun.save, "states": states}, file))
    return File(path.name, path.stat().st_size, digest(path), tuple(map(place, hooks)))


def _complete(manifest: Manifest, folder: Path) -> None:
    """Make the save count, and remove what a former one with more ranks has left."""
    manifest.write(folder)
    names = {file.name for file in manifest.files}
    for left in folder.glob(FILES):
        if left.name not in names:
            left.unlink()
