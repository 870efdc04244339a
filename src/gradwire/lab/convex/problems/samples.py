"""Samples with two labels: scikit-learn's breast cancer data, and files in LIBSVM's format."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows with two labels: features f64[m, d], labels f64[m], each +1 or -1."""

    name: str
    features: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)


def scikit_learn() -> ModuleType:
    """Import sklearn.datasets; ModuleNotFoundError, with the command to install it, if it is missing."""
    try:
        return importlib.import_module("sklearn.datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; this problem needs scikit-learn: pip install 'gradwire[lab]'") from error


def breast_cancer() -> Samples:
    """Load 569 tumours with 30 features, each standardised to mean 0 and variance 1; benign is +1."""
    features, benign = scikit_learn().load_breast_cancer(return_X_y=True)
    a = torch.tensor(features, dtype=torch.float64)
    a = (a - a.mean(0)) / a.std(0, correction=0)
    return Samples("breast_cancer", a, torch.tensor(benign, dtype=torch.float64) * 2 - 1)


LARGEST = 4 << 30
"""The most bytes of dense samples: a single line of a file may have a feature with a huge index."""


def svmlight(path: str | Path) -> Samples:
    """Read a file in LIBSVM's format as dense rows; the larger of its two labels becomes +1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not in this format, too large as dense rows, or not finite, or has not exactly two
            labels.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {path}; a problem on a LIBSVM file needs its path")
    try:
        features, targets = scikit_learn().load_svmlight_file(str(file))
    except ValueError as error:
        raise ValueError(f"{path} is not in LIBSVM's format: {error}") from error
    target = torch.tensor(targets, dtype=torch.float64)
    known = cast(Tensor, target.unique())
    if len(known) != 2:
        some = [f"{label.item():g}" for label in known[:5]]
        raise ValueError(f"logistic regression takes two labels, and {path} has {len(known)}: {', '.join(some)}")
    if (nbytes := 8 * features.shape[0] * features.shape[1]) > LARGEST:
        raise ValueError(
            f"{path} has {features.shape[0]} samples of {features.shape[1]} features, {nbytes / 2**30:.3g} GiB where "
            f"they are dense; at most {LARGEST / 2**30:.3g} GiB are read"
        )
    a = torch.tensor(features.toarray(), dtype=torch.float64)
    if not a.isfinite().all():
        raise ValueError(f"{path} holds a feature that is not finite")
    return Samples(file.name, a, (target == known[1]).double() * 2 - 1)
