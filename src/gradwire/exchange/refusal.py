"""The error message for a value that is not an exchange, shared by doors, memories and the simulator."""

from __future__ import annotations

import inspect
from types import FunctionType

from gradwire.compress.protocol import Compressor
from gradwire.reprs import describe

METHODS = ("init", "__call__", "omega", "delta")
"""The methods that an exchange must have."""


def why_no_exchange(value: object) -> str | None:
    """Return the end of a sentence that begins "Simulator takes an exchange, "; None for an exchange.

    It checks names only; `step` and `gradwire.testing` check what an exchange does.
    """
    if isinstance(value, type):
        return f"and {value.__name__} is a class: give it an instance, {value.__name__}({_required(value)})"
    if isinstance(value, Compressor):
        spec = describe(value)
        return f"and {spec} is a compressor: it becomes an exchange as gathered({spec})"
    missing = [name for name in METHODS if not callable(getattr(value, name, None))]
    if not missing:
        return None
    if len(missing) >= len(METHODS) - 1 and "__call__" in missing:
        return f"got {value!r}"
    name = value.__name__ if isinstance(value, FunctionType) else describe(value)
    return f"and {name} lacks {', '.join(missing[:-1])}{' and ' if missing[1:] else ''}{missing[-1]}"


def _required(kind: type) -> str:
    """Return the required arguments of a class, for an error message."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):  # some classes of C have no signature
        return "..."
    return ", ".join(p.name for p in parameters if _is_needed(p))


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )
