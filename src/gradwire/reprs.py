"""How parts are printed: as reprs that stay stable, and as short specs for messages.

The repr of an exchange is its spec, and a checkpoint stores it. A later option is left out of the repr while it has its
default, so that older checkpoints still match. `describe` leaves out every option at its default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_IMPLIED: set[type] = set()


def quiet(*later: str) -> Callable[[type[T]], type[T]]:
    """Leave the named options out of a dataclass's repr while they have their defaults.

    The decorator stands above the dataclass decorator: `@quiet("beta")`, then `@dataclass(frozen=True)`.
    """

    def describe(self: Any) -> str:
        shown = [field for field in fields(self) if field.repr]
        named = [field for field in shown if field.name not in later or getattr(self, field.name) != field.default]
        return (
            f"{type(self).__qualname__}({', '.join(f'{field.name}={getattr(self, field.name)!r}' for field in named)})"
        )

    def decorate(kind: type[T]) -> type[T]:
        kind.__repr__ = describe
        return kind

    return decorate


def implied(kind: type[T]) -> type[T]:
    """Mark a wrapper of one part that `describe` leaves out, because `gradwire.parse` adds it."""
    _IMPLIED.add(kind)
    return kind


def describe(part: object) -> str:
    """Return a part's shortest spec: `ef(topk(density=0.01))`, without options at their defaults.

    Leading arguments that are parts are positional. A value that is not a part is printed as in a spec.
    """
    if isinstance(part, bool | None):
        return str(part).lower()
    if not is_dataclass(part) or isinstance(part, type):
        return type(part).__name__ if type(part).__repr__ is object.__repr__ else repr(part)
    values = {field: getattr(part, field.name) for field in fields(part) if field.init}
    if type(part) in _IMPLIED:
        return describe(next(iter(values.values())))
    leading, arguments = True, list[str]()
    for field, value in values.items():
        leading = leading and is_dataclass(value)
        if leading:
            arguments.append(describe(value))
        elif value != _default(field):
            arguments.append(f"{field.name}={describe(value)}")
    name = type(part).__name__.lower().replace("_", "")
    return f"{name}({', '.join(arguments)})" if arguments else name


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default
