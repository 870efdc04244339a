"""Specs: `ef(deft(density=0.01))` <-> objects. One registry serves the command line, checkpoints and the docs.

The grammar is that of Python calls, of which only names, calls, numbers, strings, true, false and none are read;
nothing is executed. Names are those of the classes, in any case and with or without underscores, so the repr of an
object is a spec of it. Where an exchange belongs, a compressor stands for gathered(compressor).
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable
from typing import Any

from gradwire.compress import (
    Bernoulli,
    Blockwise,
    Chain,
    Compressor,
    Dithering,
    HardThreshold,
    Identity,
    Induced,
    Natural,
    NaturalDithering,
    RandK,
    Scaled,
    ScaledSign,
    Ternary,
    TopK,
)
from gradwire.exchange import (
    CLTK,
    DEFT,
    Exchange,
    ExDyna,
    Gathered,
    GlobalTopK,
    Int8AllReduce,
    Mean,
    MiCRO,
    OkTopk,
    PermK,
    PowerSGD,
    SharedRandK,
    SIDCo,
    UnionTopK,
)
from gradwire.memory import (
    DASHA,
    DGC,
    DIANA,
    EF,
    EF21,
    EF21SGDM,
    EFBV,
    GDCI,
    MARINA,
    VRGDCI,
    Difference,
    Fixed,
    Follow,
    Guard,
    Iterates,
    Momentum,
    RandDIANA,
    Restart,
    Rule,
    Shifted,
    Warmup,
)


class SpecError(ValueError):
    """A spec that cannot be read, or that asks for something that does not exist or does not fit."""


REGISTRY: dict[str, dict[str, Callable[..., Any]]] = {
    "compressor": {
        "bernoulli": Bernoulli,
        "blockwise": Blockwise,
        "chain": Chain,
        "dithering": Dithering,
        "hardthreshold": HardThreshold,
        "identity": Identity,
        "induced": Induced,
        "natural": Natural,
        "naturaldithering": NaturalDithering,
        "randk": RandK,
        "scaled": Scaled,
        "scaledsign": ScaledSign,
        "ternary": Ternary,
        "topk": TopK,
    },
    "exchange": {
        "cltk": CLTK,
        "deft": DEFT,
        "exdyna": ExDyna,
        "gathered": Gathered,
        "globaltopk": GlobalTopK,
        "int8allreduce": Int8AllReduce,
        "mean": Mean,
        "micro": MiCRO,
        "oktopk": OkTopk,
        "permk": PermK,
        "powersgd": PowerSGD,
        "sharedrandk": SharedRandK,
        "sidco": SIDCo,
        "uniontopk": UnionTopK,
    },
    "memory": {
        "dasha": DASHA,
        "dgc": DGC,
        "diana": DIANA,
        "difference": Difference,
        "ef": EF,
        "ef21": EF21,
        "ef21sgdm": EF21SGDM,
        "efbv": EFBV,
        "gdci": GDCI,
        "guard": Guard,
        "iterates": Iterates,
        "marina": MARINA,
        "momentum": Momentum,
        "warmup": Warmup,
        "randdiana": RandDIANA,
        "shifted": Shifted,
        "vrgdci": VRGDCI,
    },
    "rule": {"fixed": Fixed, "follow": Follow, "restart": Restart},
}
"""Every part by kind and name. A part joins the command line, the checkpoints and the docs by its line here."""

EXAMPLES = {
    "bernoulli": "bernoulli(p=0.2)",
    "blockwise": "blockwise(ternary, size=256)",
    "chain": "chain(randk(density=0.1), dithering(s=4))",
    "cltk": "ef(cltk(density=0.01), beta=0.1)",
    "dasha": "dasha(randk(density=0.1))",
    "deft": "deft(density=0.01)",
    "dgc": "dgc(warmup(topk(density=0.001), steps=400))",
    "diana": "diana(randk(density=0.1))",
    "difference": "difference(randk(density=0.1), a=0.01, p=0.01)",
    "dithering": "dithering(s=16)",
    "ef": "ef(deft(density=0.01))",
    "ef21": "ef21(topk(density=0.01))",
    "ef21sgdm": "ef21sgdm(topk(density=0.01), eta=0.1)",
    "efbv": "efbv(topk(density=0.01), lam=1.0, nu=0.9)",
    "exdyna": "ef(exdyna(density=0.01))",
    "fixed": "shifted(randk(density=0.1), fixed())",
    "follow": "shifted(randk(density=0.1), follow(alpha=0.1))",
    "gathered": "gathered(natural)",
    "gdci": "gdci(natural, gamma=0.1)",
    "globaltopk": "ef(globaltopk(density=0.01))",
    "guard": "guard(ef(topk(density=0.01)))",
    "hardthreshold": "hardthreshold(level=0.01)",
    "identity": "identity(values='bfloat16')",
    "induced": "induced(topk(density=0.05), randk(density=0.05))",
    "int8allreduce": "int8allreduce(workers=8)",
    "iterates": "iterates(diana(natural), gamma=0.1)",
    "marina": "marina(randk(density=0.1))",
    "mean": "mean",
    "micro": "ef(micro(density=0.01))",
    "momentum": "momentum(ef21(topk(density=0.01)), eta=0.1)",
    "natural": "natural",
    "naturaldithering": "naturaldithering(s=8)",
    "oktopk": "ef(oktopk(density=0.01))",
    "permk": "diana(permk(workers=4))",
    "powersgd": "ef(powersgd(rank=2))",
    "warmup": "ef(warmup(deft(density=0.01), steps=400, start=0.25, factor=4.0))",
    "randdiana": "randdiana(randk(density=0.1))",
    "randk": "randk(density=0.1)",
    "restart": "shifted(randk(density=0.1), restart(p=0.05))",
    "scaled": "scaled(randk(density=0.1))",
    "scaledsign": "ef(scaledsign)",
    "sharedrandk": "sharedrandk(density=0.1)",
    "shifted": "shifted(natural, follow())",
    "sidco": "ef(sidco(density=0.01))",
    "ternary": "ternary",
    "topk": "topk(density=0.01, values='natural')",
    "uniontopk": "ef(uniontopk(density=0.01))",
    "vrgdci": "vrgdci(natural, gamma=0.1)",
}
"""A spec that uses each part, for the command line and the docs."""

_PARTS = {name: make for kind in REGISTRY.values() for name, make in kind.items()}
LONGEST = 1000
"""Characters of a spec: what is longer is none, and would only exhaust the reader."""

_WORDS = {"true": True, "false": False, "none": None}
_ROLES: dict[str, tuple[type, str]] = {
    "exchange": (Exchange, "an exchange or a compressor"),
    "compressor": (Compressor, "a compressor"),
    "contractive": (Compressor, "a compressor"),
    "correction": (Compressor, "a compressor"),
    "quantiser": (Compressor, "a compressor"),
    "sparsifier": (Compressor, "a compressor"),
    "rule": (Rule, "a rule (fixed, follow, restart)"),
}


def parse(spec: str) -> Exchange:
    """Read the spec of an exchange; a compressor's is gathered.

    Raises:
        SpecError: one sentence that names what was wrong.
    """
    found = _exchange(build(spec))
    if not isinstance(found, Exchange):
        raise SpecError(f"the spec {spec!r} names {found!r}, which is not an exchange or a compressor")
    return found


def operator(spec: str) -> Compressor:
    """Read the spec of a compressor. Raises SpecError."""
    found = build(spec)
    if not isinstance(found, Compressor):
        raise SpecError(f"{spec} is not a compressor")
    return found


def build(spec: str) -> Any:
    """Read the spec of any part, as it stands. Raises SpecError."""
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
    """One node of the tree -> an object or a literal."""
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
            named = {keyword.arg or "**": _build(keyword.value, spec) for keyword in node.keywords}
            return _call(name, [_build(argument, spec) for argument in node.args], named, spec)
        case _:
            raise SpecError(f"cannot read {ast.unparse(node)!r} in the spec {spec!r}: only names, calls and literals")


def _call(name: str, positional: list[Any], named: dict[str, Any], spec: str) -> Any:
    """Construct a part, with every argument in its role."""
    key = name.lower().replace("_", "")
    if key not in _PARTS:
        close = difflib.get_close_matches(key, _PARTS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(_PARTS))}"
        raise SpecError(f"unknown name {name!r} in the spec {spec!r}; {hint}")
    make = _PARTS[key]
    try:
        arguments = inspect.signature(make).bind(*positional, **named).arguments
    except TypeError as error:
        takes = ", ".join(inspect.signature(make).parameters) or "nothing"
        raise SpecError(f"{key} takes {takes}; in the spec {spec!r}: {error}") from None
    try:
        return make(**{role: _fit(key, role, value) for role, value in arguments.items()})
    except SpecError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(f"in the spec {spec!r}: {error}") from error


def _fit(part: str, role: str, value: Any) -> Any:
    """Check that an argument can play its role; numbers and formats are the part's own business."""
    if role not in _ROLES:
        return value
    kind, words = _ROLES[role]
    value = _exchange(value) if role == "exchange" else value
    if not isinstance(value, kind) or isinstance(value, type):
        raise SpecError(f"{part} takes {words}, got {value!r}")
    return value


def _exchange(value: Any) -> Any:
    """A compressor where an exchange belongs is gathered."""
    return Gathered(value) if isinstance(value, Compressor) else value
