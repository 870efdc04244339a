"""Problems by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from gradwire.lab.checks import check_name
from gradwire.lab.convex.problems.adult import a9a
from gradwire.lab.convex.problems.logistic import LibSVM, Logistic
from gradwire.lab.convex.problems.problem import Problem
from gradwire.lab.convex.problems.quadratic import Quadratic
from gradwire.lab.convex.problems.ridge import Ridge
from gradwire.lab.convex.problems.samples import breast_cancer

PROBLEMS: dict[str, Callable[..., Problem]] = {
    "ridge": Ridge,
    "a9a": partial(Logistic, a9a),
    "breast_cancer": partial(Logistic, breast_cancer),
    "libsvm": LibSVM,
    "quadratic": Quadratic,
}
"""Constructors by name; all take `n`, the number of workers, and `seed`."""


def make(name: str, *, workers: int | None = None, seed: int = 0, **options: object) -> Problem:
    """Make a problem by name, with the constructor's default number of workers unless another is given.

    Raises:
        ValueError: the name or an option is unknown, or an option is missing or invalid.
        ModuleNotFoundError, FileNotFoundError: the problem's data are not installed.
    """
    check_name("problem", name, PROBLEMS)
    parameters = inspect.signature(PROBLEMS[name]).parameters.values()
    known = {p.name: p.default is p.empty for p in parameters if p.name not in ("n", "seed")}
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name} takes {', '.join(known)}; got {', '.join(unknown)}")
    if missing := [option for option, needed in known.items() if needed and option not in options]:
        raise ValueError(f"{name} needs {', '.join(missing)}")
    if workers is not None:
        options["n"] = workers
    return PROBLEMS[name](seed=seed, **options)
