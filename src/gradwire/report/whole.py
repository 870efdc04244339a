"""The way of a file to disk: a reader finds the old one or the whole new one, never a part."""

import os
from pathlib import Path


def write_whole(text: str, path: Path) -> None:
    """Write text as UTF-8 in one step. FileNotFoundError if there is no such folder."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the report's folder must exist, got {str(path.parent)!r}")
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(text.encode("utf-8", "replace"))
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
