"""`gradwire.save`: write the states of all ranks into one folder, completely or not at all.

    all ranks read their states -> rank 0 replaces the manifest by one without files -> every rank writes its file ->
    rank 0 writes the complete manifest

All ranks agree after every arrow, so a failure on one rank stops all. If a save is killed at any moment, the folder
contains the former save, or is refused by `load`, or contains the complete new save.
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
from gradwire.transport.allranks import AllRanks


def save(hooks: Hooks, folder: str | os.PathLike[str], *, group: dist.ProcessGroup | None = None) -> None:
    """Save the states of hooks on all ranks into a folder, which may contain other files. Every rank calls it.

    Every rank writes a file of its own, and rank 0 a manifest when all files are on the disk. An earlier save in the
    folder is replaced; it is invalid from the first byte written.

    Args:
        hooks: what `attach` or `local` returned, or a list of them, between steps.
        folder: the same on all ranks, on a file system that all ranks share. It is made if it does not exist.
        group: the ranks that call it; all ranks by default.

    Raises:
        ValueError: on every rank: some rank could not make its state or write its file, the ranks are at different
            steps, or they do not share the folder. If writing has begun, `load` refuses the folder.
    """
    all_ranks, path = AllRanks(group), Path(folder)
    found = all_ranks.do(lambda: listed(hooks, all_ranks.size))
    states = all_ranks.do(lambda: [hook.state_dict(copy=False) for hook in found])
    begun = _begun(all_ranks, states)
    all_ranks.do(lambda: _invalidate(begun, path) if all_ranks.rank == 0 else None)
    mine = all_ranks.do(lambda: _write(begun, path, all_ranks.rank, found, states))
    files = tuple(parse_file(json.loads(words)) for words in all_ranks.gather_text(json.dumps(asdict(mine))))
    complete = Manifest(begun.save, begun.steps, begun.exchanges, files)
    all_ranks.do(lambda: _complete(complete, path) if all_ranks.rank == 0 else None)


def _begun(all_ranks: AllRanks, states: list[dict[str, Any]]) -> Manifest:
    """Return a manifest without files, the same on all ranks (ValueError: the ranks are at different steps)."""
    moments = all_ranks.gather_text(repr([(state["step"], state["exchange"]) for state in states]))
    if other := next((rank for rank, words in enumerate(moments) if words != moments[0]), None):
        raise ValueError(f"rank {other} saves {moments[other]} and rank 0 {moments[0]}: all ranks save at one step")
    name = all_ranks.gather_text(secrets.token_hex(8))[0]
    return Manifest(name, tuple(state["step"] for state in states), tuple(state["exchange"] for state in states))


def _invalidate(begun: Manifest, folder: Path) -> None:
    """Replace the manifest by one without files, so that `load` refuses an earlier save."""
    folder.mkdir(parents=True, exist_ok=True)
    begun.write(folder)


def _write(begun: Manifest, folder: Path, rank: int, hooks: list[Saved], states: list[dict[str, Any]]) -> File:
    """Write this rank's file, if this rank sees the manifest that rank 0 has written (ValueError)."""
    seen = folder / MANIFEST
    if not seen.is_file() or parse(seen) != begun:
        raise ValueError(f"{seen}, which rank 0 has just written, is not seen here: all ranks must share the folder")
    path = folder / file_of(rank)
    write_whole(path, lambda file: torch.save({"format": FORMAT, "save": begun.save, "states": states}, file))
    return File(path.name, path.stat().st_size, digest(path), tuple(map(place, hooks)))


def _complete(manifest: Manifest, folder: Path) -> None:
    """Write the complete manifest, and remove the files of a former save with more ranks."""
    manifest.write(folder)
    names = {file.name for file in manifest.files}
    for left in folder.glob(FILES):
        if left.name not in names:
            left.unlink()
