"""Dataclasses written as strict JSON and read back, and the versions on which measured figures depend.

A field of a record is a dataclass, a tuple of one type, a dict with string keys, a string, a number, a bool, a Literal,
or a union such as `float | None`. A float that is not finite, such as the loss of a diverged run, is written as the
string "NaN", "Infinity" or "-Infinity", because JSON has no such numbers.
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import torch

from gradwire import kernels

R = TypeVar("R")

NON_FINITE = ("NaN", "Infinity", "-Infinity")


def to_json(record: Any, indent: int | None = None) -> str:
    """Write a record as strict JSON; `from_json` returns an equal record."""
    return strict(asdict(record), indent)


def strict(fields: dict[str, Any], indent: int | None = None) -> str:
    """Write nested dicts, lists, strings and numbers as strict JSON."""
    return json.dumps(_writable(fields), indent=indent, allow_nan=False)


def from_json(kind: type[R], text: str, what: str) -> R:
    """Read a record that `to_json` wrote; ValueError, in one sentence that begins with `what`, for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON: {error}") from error
    return read(kind, value, what)


def read(kind: Any, value: Any, where: str) -> Any:
    """Convert a JSON value to type `kind`; ValueError that names the place, the expected type and the value."""
    if is_dataclass(kind):
        return _read_fields(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return read(_fitting(arguments, value), value, where)
    if origin is Literal:
        _must(value in arguments, where, f"one of {', '.join(map(str, arguments))}", value)
        return value
    if origin is tuple:
        _must(isinstance(value, list), where, "a list", value)
        return tuple(read(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        _must(isinstance(value, dict), where, "an object", value)
        return {key: read(arguments[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    return _read_plain(kind, value, where)


def versions() -> dict[str, str]:
    """The versions that figures depend on: gradwire's and those of `platform_versions`."""
    return {"gradwire": version("gradwire"), **platform_versions()}


def platform_versions() -> dict[str, str]:
    """The versions of Python and torch, the machine type, and the library that runs loops over every element."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "loops": kernels.loops(),
    }


def _writable(value: Any) -> Any:
    """Copy nested values, with floats that are not finite replaced by their names."""
    if isinstance(value, dict):
        return {key: _writable(item) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, tuple | list):
        return [_writable(item) for item in cast(tuple[Any, ...], value)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    """Read a dataclass from a JSON object with exactly its fields."""
    _must(isinstance(value, dict), where, "an object", value)
    wanted = get_type_hints(kind)
    if odd := sorted(wanted.keys() ^ value.keys()):
        raise ValueError(f"{where} {'lacks' if odd[0] in wanted else 'has an unknown field'} {odd[0]!r}")
    return kind(**{name: read(each, value[name], f"{where}: {name}") for name, each in wanted.items()})


def _fitting(kinds: tuple[Any, ...], value: Any) -> Any:
    """The member of a union that fits a value; the last one, for the error message, if none does."""
    if value is None and NoneType in kinds:
        return NoneType
    some = tuple(kind for kind in kinds if kind is not NoneType)
    exact = (kind for kind in some if kind is type(value))
    return next(exact, float if float in some and (_is_whole(value) or value in NON_FINITE) else some[-1])


def _read_plain(kind: Any, value: Any, where: str) -> Any:
    """Read None, a bool, a string or a number."""
    if kind is NoneType:
        return None
    if kind is bool:
        _must(isinstance(value, bool), where, "true or false", value)
        return value
    if kind is str:
        _must(isinstance(value, str), where, "text", value)
        return value
    if kind is int:
        _must(_is_whole(value), where, "a whole number", value)
        return value
    real = isinstance(value, float) or (_is_whole(value) and abs(value) < 2**1023) or value in NON_FINITE
    _must(real, where, "a number", value)
    return float(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _must(holds: bool, where: str, wanted: str, value: object) -> None:
    """Raise ValueError unless a condition holds."""
    if not holds:
        raise ValueError(f"{where} must be {wanted}, got {str(value)[:60]!r}")
