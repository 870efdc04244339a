"""Parts are values, and their reprs are specs."""

from __future__ import annotations

import copy
from collections.abc import Callable

from gradwire.reprs import describe
from gradwire.spec import SpecError
from gradwire.testing.trial import Trial


def check_spec(trial: Trial, part: object, read: Callable[[str], object]) -> None:
    """Fail unless a part equals its copy, has a hash, and, if specs know its name, is what its repr is read as."""
    trial.require(copy.copy(part) == part, "it differs from its own copy: make it a frozen dataclass")
    trial.require(hash(copy.copy(part)) == hash(part), "its copy has another hash: make it a frozen dataclass")
    for spec in (repr(part), describe(part)):
        try:
            found = read(spec)
        except SpecError as error:
            if _is_stranger(error):
                continue
            raise
        trial.require(found == part, f"the spec {spec} is read as {found!r}")


def _is_stranger(error: SpecError) -> bool:
    """Whether a spec names a part that is not registered, or is no spec at all, as the repr of a plain object."""
    return str(error).startswith(("unknown name", "cannot read"))
