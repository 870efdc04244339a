"""The check that parts are values and that their reprs are specs."""

from __future__ import annotations

import copy
from collections.abc import Callable

from gradwire.reprs import describe
from gradwire.spec import SpecError
from gradwire.testing.trial import Trial


def check_spec(trial: Trial, part: object, read: Callable[[str], object]) -> None:
    """Fail unless a part equals its copy, is hashable, and, if it is registered, equals what its repr parses to."""
    trial.require(copy.copy(part) == part, "it differs from its own copy: make it a frozen dataclass")
    trial.require(hash(copy.copy(part)) == hash(part), "its copy has another hash: make it a frozen dataclass")
    for spec in (repr(part), describe(part)):
        try:
            found = read(spec)
        except SpecError as error:
            if _is_unregistered(error):
                continue
            raise
        trial.require(found == part, f"the spec {spec} is read as {found!r}")


def _is_unregistered(error: SpecError) -> bool:
    """Whether a spec names an unregistered part, or is no spec at all, such as the repr of a plain object."""
    return str(error).startswith(("unknown name", "cannot read"))
