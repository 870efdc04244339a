"""The manifest of a folder: the files of one save. Rank 0 writes it last.

    gradwire.json    {"blake2b": digest of the rest, "manifest": {"format": 1, "save": "5d6e...", "steps": [120],
                      "exchanges": ["EF(...)"], "files": [{"name": "gradwire-0.pt", ...}, ...]}}
    gradwire-0.pt    {"format": 1, "save": "5d6e...", "states": [state_dict of every hook]}, and so on for every rank

While a save is under way, and after one that was cut short, the manifest lists no files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from gradwire.checks import is_whole
from gradwire.folder.files import digest, write_whole

FORMAT = 1
MANIFEST = "gradwire.json"
FILES = "gradwire-*.pt*"
"""A pattern for the ranks' files, including unfinished ones."""


@dataclass(frozen=True)
class Place:
    """The owner of a state: worker `rank` of `size`, which exchange part `part` of the `parts` of a model."""

    part: int
    parts: int
    rank: int
    size: int


@dataclass(frozen=True)
class File:
    """One rank's file: its name, size and digest, and the place of every hook's state in it."""

    name: str
    nbytes: int
    blake2b: str
    places: tuple[Place, ...]

    def check(self, folder: Path) -> Path:
        """Return the file's path (ValueError: it is missing, or not as it was saved)."""
        path = folder / self.name
        if not path.is_file():
            raise ValueError(f"{path} is missing here: every rank must see all files of a save, in one shared folder")
        if (nbytes := path.stat().st_size) != self.nbytes:
            raise ValueError(f"{path} has {nbytes} bytes and was saved with {self.nbytes}")
        if digest(path) != self.blake2b:
            raise ValueError(f"{path} is not the file that was saved: it is damaged, or of another save")
        return path


@dataclass(frozen=True)
class Manifest:
    """One save: its random name, every hook's step and exchange, and every rank's file; no files if incomplete."""

    save: str
    steps: tuple[int, ...]
    exchanges: tuple[str, ...]
    files: tuple[File, ...] = ()

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest."""
        body = {"format": FORMAT, **asdict(self)}
        text = json.dumps({"blake2b": _digest(body), "manifest": body}, indent=1)
        write_whole(folder / MANIFEST, lambda file: file.write(text.encode()))


def file_of(rank: int) -> str:
    """Return the name of a rank's file."""
    return f"gradwire-{rank}.pt"


def read(folder: Path) -> Manifest | None:
    """Return the manifest of a complete save; None if the folder contains no files of gradwire's.

    Raises:
        ValueError: the save was cut short, there are files without a manifest, or this gradwire cannot read it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if left := sorted(file.name for file in folder.glob(FILES)):
            raise ValueError(f"{folder} holds {left[0]} but no {MANIFEST}: a save was cut short or copied in part")
        return None
    manifest = parse(path)
    if not manifest.files:
        step = ", ".join(map(str, manifest.steps))
        raise ValueError(f"the save of step {step} into {folder} was cut short: it is not complete")
    return manifest


def parse(path: Path) -> Manifest:
    """Read a manifest, also of an incomplete save (ValueError: it is damaged, or of another format)."""
    try:
        found: Any = json.loads(path.read_bytes())
        body = cast(dict[str, Any], found["manifest"])
        whole = found["blake2b"] == _digest(body)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of gradwire's, or is damaged") from error
    if not whole:
        raise ValueError(f"{path} is not as it was saved")
    try:
        if body["format"] != FORMAT:
            raise ValueError(f"{path} has format {body['format']!s:.200}, this gradwire reads format {FORMAT}")
        files = tuple(map(parse_file, body["files"]))
        manifest = Manifest(body["save"], tuple(body["steps"]), tuple(body["exchanges"]), files)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of gradwire's") from error
    if not _is_sane(manifest):
        raise ValueError(f"{path} is no manifest of gradwire's: it holds other things than words and whole numbers")
    return manifest


def parse_file(saved: Mapping[str, Any]) -> File:
    """Return the `File` from which `asdict` made this dictionary."""
    places = tuple(Place(**place) for place in saved["places"])
    return File(saved["name"], saved["nbytes"], saved["blake2b"], places)


def _is_sane(manifest: Manifest) -> bool:
    """Whether all values have the right types and all files are in the folder; a checksum can be forged."""
    words: list[object] = [manifest.save, *manifest.exchanges, *(file.blake2b for file in manifest.files)]
    numbers: list[object] = [*manifest.steps, *(file.nbytes for file in manifest.files)]
    for file in manifest.files:
        numbers += [number for place in file.places for number in (place.part, place.parts, place.rank, place.size)]
    named = all(file.name == file_of(rank) for rank, file in enumerate(manifest.files))
    return named and all(isinstance(word, str) for word in words) and all(is_whole(number) for number in numbers)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()
