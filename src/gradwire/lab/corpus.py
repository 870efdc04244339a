"""Text that is installed with Python and torch, as bytes: above all the source of CPython's standard library."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

HELD_OUT = 20
"""Every twentieth file is held out for evaluation."""


@dataclass(frozen=True)
class Corpus:
    """Bytes as tokens: u8[...] to train on, and u8[...] held out."""

    train: Tensor
    held_out: Tensor

    def batch(self, sequences: int, context: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw random windows of the training bytes: int64[sequences, context], and the same shifted by one byte."""
        return _windows(self.train, sequences, context, rng)

    def evaluation(self, sequences: int, context: int) -> tuple[Tensor, Tensor]:
        """Draw windows of the held-out bytes, the same ones at every call."""
        return _windows(self.held_out, sequences, context, torch.Generator().manual_seed(0))


def standard_library(megabytes: float = 12.0) -> Corpus:
    """Read the *.py files of the running Python's standard library, without tests and installed packages.

    megabytes: the most training bytes to keep, in MB.

    Raises:
        FileNotFoundError: this Python has no source of its library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
    files = sorted(f for f in root.rglob("*.py") if not skipped & set(f.relative_to(root).parts))
    if len(files) < HELD_OUT:
        raise FileNotFoundError(f"{root} holds {len(files)} source files; the corpus needs at least {HELD_OUT}")
    held_out = b"".join(f.read_bytes() for f in files[::HELD_OUT])
    train = b"".join(f.read_bytes() for i, f in enumerate(files) if i % HELD_OUT)
    return Corpus(_tensor(train[: int(megabytes * 1e6)]), _tensor(held_out))


def kinds() -> Mapping[str, Corpus]:
    """Read four very different kinds of text, by name.

    "Python" is `standard_library()`. Of the others the last twentieth is held out: "English", Python's documentation;
    "C++", torch's ATen headers; and "tables", Python's tables of character encodings.

    Raises:
        FileNotFoundError: one of them is not installed.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = {
        "English": [root / "pydoc_data" / "topics.py"],
        "C++": sorted((Path(torch.__file__).parent / "include" / "ATen").glob("*.h")),
        "tables": sorted((root / "encodings").glob("cp*.py")),
    }
    return MappingProxyType(
        {"Python": standard_library()} | {kind: _ended(kind, found) for kind, found in files.items()}
    )


def _ended(kind: str, files: list[Path]) -> Corpus:
    """Concatenate files to a corpus whose last twentieth is held out."""
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"the text of the kind {kind} is not installed")
    text = b"".join(file.read_bytes() for file in files)
    cut = len(text) - len(text) // HELD_OUT
    return Corpus(_tensor(text[:cut]), _tensor(text[cut:]))


def _tensor(text: bytes) -> Tensor:
    return torch.tensor(np.frombuffer(text, dtype=np.uint8))


def _windows(text: Tensor, sequences: int, context: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(text) - context - 1, (sequences, 1), generator=rng)
    window: Tensor = text[starts + torch.arange(context + 1)].long()
    return window[:, :-1], window[:, 1:]
