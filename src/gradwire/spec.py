"""Specs: `ef(deft(density=0.01))` <-> objects.

The grammar is that of Python calls, restricted to names, calls, numbers, strings, true, false and none; nothing is
executed. Names are those of the registry, in any case and with or without underscores; a class is registered under its
own name, so the repr of an object is a spec of it. Where an exchange is expected, a compressor stands for
gathered(compressor). A part's annotations determine which parameters are exchanges, compressors or rules.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from gradwire import compress, exchange, memory, outer, registry
from gradwire.compress.protocol import Compressor, Sparsifier
from gradwire.exchange.gathered import Gathered
from gradwire.exchange.protocol import Exchange
from gradwire.exchange.refusal import why_no_exchange
from gradwire.memory.shift import Rule
from gradwire.outer.protocol import Outer

HOMES = (compress, exchange, memory, outer)
"""The packages whose import registers the parts that specs name."""


class SpecError(ValueError):
    """A spec that cannot be parsed, or that names an unknown part or invalid arguments."""


LONGEST = 1000
"""Maximum number of characters in a spec; longer ones could exhaust the parser."""

ALSO_KNOWN_AS = {
    "allreduce": "mean",
    "average": "mean",
    "bf16": "identity(values='bfloat16')",
    "bfloat16": "identity(values='bfloat16')",
    "dcgd": "randk(density=0.1)",
    "dense": "mean",
    "efsgd": "ef(topk(density=0.01))",
    "efsignsgd": "ef(scaledsign)",
    "errorfeedback": "ef(topk(density=0.01))",
    "fp16": "identity(values='bfloat16')",
    "fp32": "mean",
    "gtopk": "ef(globaltopk(density=0.01))",
    "lowrank": "ef(powersgd(rank=2))",
    "memsgd": "ef(topk(density=0.01))",
    "naturalcompression": "natural",
    "nocompression": "mean",
    "onebit": "ef(scaledsign)",
    "onebitsgd": "ef(scaledsign)",
    "permutationk": "diana(permk(workers=4))",
    "qsgd": "dithering(s=16)",
    "quantize": "dithering(s=16)",
    "random": "randk(density=0.1)",
    "randomdithering": "dithering(s=16)",
    "randomk": "randk(density=0.1)",
    "randomsparsification": "bernoulli(p=0.2)",
    "sign": "scaledsign",
    "signsgd": "scaledsign",
    "sparseloco": "ef(chunkedtopk(density=0.015625, values='bits2'), decay=0.95)",
    "sparsify": "ef(topk(density=0.01))",
    "terngrad": "ternary",
    "threshold": "ef(hardthreshold(level=0.01))",
    "topksgd": "ef(topk(density=0.01))",
}
"""Other common names of methods, and the spec that an error message suggests for each."""

_WORDS = {"true": True, "false": False, "none": None}
_ROLES: dict[Any, tuple[type, str]] = {
    Exchange: (Exchange, "an exchange or a compressor"),
    Compressor: (Compressor, "a compressor"),
    # The part itself checks that a compressor is a sparsifier, with its own error message.
    Sparsifier: (Compressor, "a compressor"),
    Rule: (Rule, "a rule"),
}
"""For each annotation: the type that an argument must have, and its name in error messages."""


def parse(spec: str) -> Exchange:
    """Parse the spec of an exchange. A compressor becomes gathered(compressor).

    Raises:
        SpecError: the spec is invalid, or does not name an exchange or a compressor.
    """
    found = _gather(build(spec))
    if not isinstance(found, Exchange):
        hint = "; without compression it is mean" if found is None else ""
        raise SpecError(f"the spec {spec!r} names {found!r}, which is not an exchange or a compressor{hint}")
    return found


def as_exchange(value: Exchange | str, who: str) -> Exchange:
    """Return an exchange, or parse its spec, as every door does with its argument.

    A compressor, as an object or a spec, becomes gathered(compressor). Constructors of memories accept exchanges only.

    Raises:
        SpecError: the spec is invalid.
        TypeError: the value is not an exchange; the message begins with `who`.
    """
    if isinstance(value, str):
        return parse(value)
    found = _gather(value) if not isinstance(value, type) else value
    if (wrong := why_no_exchange(found)) is not None:
        raise TypeError(f"{who} takes an exchange or its spec, {wrong}")
    return found


def as_outer(value: Outer | str, who: str) -> Outer:
    """Return an outer step, or parse its spec.

    Raises:
        SpecError: the spec is invalid, or names something else.
        TypeError: the value is neither an outer step nor a string.
    """
    known = ", ".join(registry.parts("outer"))
    found: object = build(value) if isinstance(value, str) else value
    # An exchange, too, has an `init` and can be called.
    if isinstance(found, Outer) and not isinstance(found, Exchange | type):
        return found
    if isinstance(value, str):
        raise SpecError(f"the spec {value!r} names {found!r}, which is no outer step ({known})")
    raise TypeError(f"{who} takes an outer step ({known}) or its spec, got {value!r}")


def operator(spec: str) -> Compressor:
    """Parse the spec of a compressor (SpecError)."""
    found = build(spec)
    if not isinstance(found, Compressor):
        raise SpecError(f"{spec} is not a compressor")
    return found


def build(spec: str) -> Any:
    """Parse the spec of any part, without wrapping a compressor (SpecError)."""
    if len(spec) > LONGEST:
        raise SpecError(f"cannot read a spec of {len(spec)} characters; {LONGEST} are enough for any")
    try:
        return _build(ast.parse(spec.strip(), mode="eval").body, spec)
    except (SyntaxError, RecursionError, MemoryError):
        pass
    except ValueError as error:
        if isinstance(error, SpecError):
            raise
    raise SpecError(f"cannot read the spec {spec!r}: it should look like ef(deft(density=0.01))")


def _build(node: ast.expr, spec: str) -> Any:
    """Convert one node of the syntax tree to an object or a literal."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Name(id=word) if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        case ast.Name(id=name):
            return _call(name, [], {}, spec)
        case ast.Call(func=ast.Name(id=name)):
            keywords = [keyword.arg or "**" for keyword in node.keywords]
            if twice := [keyword for number, keyword in enumerate(keywords) if keyword in keywords[:number]]:
                raise SpecError(f"{name} is given {twice[0]} twice in the spec {spec!r}")
            named = {keyword.arg or "**": _build(keyword.value, spec) for keyword in node.keywords}
            return _call(name, [_build(argument, spec) for argument in node.args], named, spec)
        case _:
            raise SpecError(f"cannot read {ast.unparse(node)!r} in the spec {spec!r}: only names, calls and literals")


def _call(name: str, positional: list[Any], named: dict[str, Any], spec: str) -> Any:
    """Construct a part by name, after checking its arguments (SpecError)."""
    key, make = _find(name, spec)
    try:
        call = inspect.signature(make).bind(*positional, **named)
    except TypeError as error:
        parameters = list(inspect.signature(make).parameters)
        meant = [close for name in named if name not in parameters for close in _close(name, parameters)]
        hint = f"; did you mean {meant[0]}?" if meant else ""
        takes = ", ".join(parameters) or "nothing"
        raise SpecError(f"{key} takes {takes}; in the spec {spec!r}: {error}{hint}") from None
    hints = _hints(key, make)
    for parameter, value in call.arguments.items():
        call.arguments[parameter] = _fit(key, hints.get(parameter), value)
    try:
        return make(*call.args, **call.kwargs)
    except SpecError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(f"in the spec {spec!r}: {error}") from error


def _find(name: str, spec: str) -> tuple[str, Callable[..., Any]]:
    """Return a name as the registry spells it, and its constructor. An unknown name loads installed packages first."""
    key = name.lower().replace("_", "")
    failures = () if key in registry.PARTS else registry.load_installed()
    if key in registry.PARTS:
        return key, registry.PARTS[key].make
    raise SpecError("; ".join((f"unknown name {name!r} in the spec {spec!r}", _hint(key), *failures)))


def _hint(key: str) -> str:
    """Return a suggestion for an unknown name."""
    if key in ALSO_KNOWN_AS:
        return f"did you mean {ALSO_KNOWN_AS[key]}?"
    close = difflib.get_close_matches(key, [*registry.PARTS, *ALSO_KNOWN_AS], n=1)
    if not close:
        return f"known are {', '.join(sorted(registry.PARTS))}"
    return f"did you mean {ALSO_KNOWN_AS.get(close[0], repr(close[0]))}?"


def _close(name: str, parameters: list[str]) -> list[str]:
    """Return the parameter that is most similar to a misspelt one, if any is."""
    return difflib.get_close_matches(name, parameters, n=1)


@lru_cache
def _hints(part: str, make: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the types of a part's parameters; a class's are those of its constructor."""
    try:
        return get_type_hints(make.__init__ if isinstance(make, type) else make)
    except (NameError, TypeError) as error:
        raise SpecError(f"the annotations of {part} must be readable at run time: {error}") from error


def _fit(part: str, hint: Any, value: Any) -> Any:
    """Check that an argument has its parameter's type, and gather a compressor; the part checks numbers and strings."""
    options = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    roles = options & _ROLES.keys()
    if not roles or (value is None and NoneType in options) or any(_plays(role, value) for role in roles):
        return value
    if Exchange in roles and isinstance(value, Compressor):
        return _gather(value)
    if options - roles - {NoneType}:
        return value
    words = [_ROLES[role][1] for role in _ROLES if role in roles]
    among = f" ({', '.join(registry.parts('rule'))})" if Rule in roles else ""
    raise SpecError(f"{part} takes {' or '.join(words)}{among}, got {value!r}")


def _plays(role: Any, value: Any) -> bool:
    """Whether a value is an instance of the type that an annotation stands for."""
    return isinstance(value, _ROLES[role][0]) and not isinstance(value, type)


def _gather(value: Any) -> Any:
    """Wrap a compressor as gathered(compressor); return any other value."""
    return Gathered(value) if isinstance(value, Compressor) else value
