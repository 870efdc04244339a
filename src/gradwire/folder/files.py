"""Files that are written completely or not at all, and digests of their contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

CHUNK = 2**20


def write_whole(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name in the same folder, flush it to the disk, and only then rename it."""
    new = path.with_name(f"{path.name}.new")
    with open(new, "wb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name is an entry of the folder, so the folder must be flushed too
    finally:
        os.close(folder)


def digest(path: Path) -> str:
    """Return a 16-byte digest of a file's contents, in hexadecimal."""
    found = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()
