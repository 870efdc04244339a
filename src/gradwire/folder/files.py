"""Files that are written completely or not at all, and are known by their bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

CHUNK = 2**20


def write_whole(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write a file under another name in the same folder, put it on the disk, and only then give it its name."""
    new = path.with_name(f"{path.name}.new")
    with open(new, "wb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name is an entry of the folder, and reaches the disk with it
    finally:
        os.close(folder)


def digest(path: Path) -> str:
    """Sixteen bytes, as text, that tell a file's bytes from any others."""
    found = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()
