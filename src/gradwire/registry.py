"""The registry: every part by name. A part registers itself, in this package and in other packages alike.

    @part("topk", "compressor", example="topk(density=0.01)")
    @dataclass(frozen=True)
    class TopK: ...

The decorator stands above a class or above a named constructor (`def EF21(exchange)`). Specs, `gradwire list`,
checkpoints and the tables of the docs read nothing else. The kind is given rather than inferred, because exchanges and
memories have the same methods.

An installed package announces its parts by an entry point of the group `gradwire.parts`, which names the module that
registers them:

    [project.entry-points."gradwire.parts"]
    mypackage = "mypackage.parts"

Such modules are imported when a spec contains an unknown name, and by `gradwire list`. A spec never causes the import
of any other module.
"""

from __future__ import annotations

import keyword
import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata
from typing import Any, Literal, TypeAlias, TypeVar, get_args

Kind: TypeAlias = Literal["compressor", "exchange", "memory", "rule", "outer"]
Maker = TypeVar("Maker", bound=Callable[..., Any])

GROUP = "gradwire.parts"
"""The group of entry points by which installed packages announce their parts."""

RESERVED = ("auto", "dense", "false", "none", "true")
"""Names that have another meaning in specs, `attach` or checkpoints."""


@dataclass(frozen=True)
class Entry:
    """One registered part: its name in specs, its kind, its constructor, and a spec that uses it."""

    name: str
    kind: Kind
    make: Callable[..., Any]
    example: str

    @property
    def summary(self) -> str:
        """The first line of the constructor's docstring."""
        return (self.make.__doc__ or "").strip().split("\n")[0]

    @property
    def origin(self) -> str:
        """The constructor's module and qualified name, as module.Name."""
        return f"{self.make.__module__}.{self.make.__qualname__}"


PARTS: dict[str, Entry] = {}
"""Every registered part by its name."""


def part(name: str, kind: Kind, *, example: str) -> Callable[[Maker], Maker]:
    """Register a class or a named constructor under the name that specs use.

    Args:
        name: lower-case letters and digits. For a class it must be the class's name in lower case, without underscores,
            so that the repr of an object is a spec.
        kind: "compressor", "exchange", "memory", "rule" or "outer".
        example: a spec that uses the part, for the command line and the docs. It is not parsed here.

    A definition may be executed again, as in a notebook; it replaces the earlier one.

    Raises:
        ValueError: the name or kind is invalid, or the name is taken by another definition.
    """

    def register(make: Maker) -> Maker:
        entry = Entry(name, kind, make, example)
        _check(entry)
        PARTS[name] = entry
        return make

    return register


def parts(kind: Kind) -> dict[str, Entry]:
    """Return the registered parts of one kind, sorted by name."""
    return {name: PARTS[name] for name in sorted(PARTS) if PARTS[name].kind == kind}


def discover(package: str, path: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """Import all modules of a package, and return the constructors that they have registered, by Python name."""
    for module in pkgutil.iter_modules(path, f"{package}."):
        import_module(module.name)
    makers = (entry.make for entry in PARTS.values() if entry.make.__module__.startswith(f"{package}."))
    return {make.__name__: make for make in makers}


@lru_cache(maxsize=1)
def load_installed() -> tuple[str, ...]:
    """Import, once, the modules that installed packages announce; return an error message for each that fails."""
    failures: list[str] = []
    for point in metadata.entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # Another package may fail in any way, which must not hide the other parts.
            failures.append(f"the parts of {point.value} cannot be loaded: {type(error).__name__}: {error}")
    return tuple(failures)


def _check(entry: Entry) -> None:
    """Raise ValueError for a name that is invalid or taken, and for a kind that does not exist."""
    name, taken = entry.name, PARTS.get(entry.name)
    if not re.fullmatch("[a-z][a-z0-9]*", name) or keyword.iskeyword(name):
        raise ValueError(f"a part's name is lower-case letters and digits and no word of Python, got {name!r}")
    if name in RESERVED:
        raise ValueError(f"the name {name!r} means something else already; reserved are {', '.join(RESERVED)}")
    if entry.kind not in get_args(Kind):
        raise ValueError(f"a part's kind is one of {', '.join(get_args(Kind))}, got {entry.kind!r}")
    if isinstance(entry.make, type) and (own := entry.make.__name__.lower().replace("_", "")) != name:
        raise ValueError(f"{entry.origin} must be registered as {own!r}, so that its repr is a spec, got {name!r}")
    if taken is not None and taken.origin != entry.origin:
        raise ValueError(f"the name {name!r} is taken by {taken.origin}, so {entry.origin} needs another")
