"""`gradwire list`: every part, also of installed packages, with its parameters, constants and bytes."""

from __future__ import annotations

import inspect
import json
import textwrap
from dataclasses import asdict, dataclass
from typing import get_args

from gradwire import registry
from gradwire.cli.console import complain, out
from gradwire.compress.protocol import Compressor
from gradwire.exchange.protocol import Exchange
from gradwire.spec import SpecError, build

NOMINAL = 1_000_000
"""Dimension d for which constants and bytes are shown."""


@dataclass(frozen=True)
class Listed:
    """What `gradwire list` shows of one part.

    parameters: as in a call, such as "density" or "values='float32'". omega, delta, nbytes: constants and message bytes
    of the example at dimension `elements`; None where they do not exist. problem: why the example cannot be built, or
    "".
    """

    name: str
    kind: str
    parameters: tuple[str, ...]
    summary: str
    origin: str
    example: str
    elements: int
    omega: float | None
    delta: float | None
    nbytes: int | None
    problem: str


def show(word: str | None, as_json: bool) -> None:
    """Print all parts, or those with `word` in their name, kind or summary; ValueError if there are none."""
    for sentence in registry.load_installed():
        complain(sentence)
    every = [listed(entry) for kind in get_args(registry.Kind) for entry in registry.parts(kind).values()]
    found = [
        each for each in every if word is None or word.lower() in f"{each.name} {each.kind} {each.summary}".lower()
    ]
    if not found:
        raise ValueError(f"none of the {len(every)} parts has {word!r} in its name, kind or summary")
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=1, ensure_ascii=False))
        return
    for kind in dict.fromkeys(each.kind for each in found):
        out.print(f"{kind.upper()}\n", markup=False, highlight=False)
        for each in found:
            if each.kind == kind:
                out.print("\n".join(_lines(each)) + "\n", markup=False, highlight=False, soft_wrap=True)
    out.print(f"Constants and bytes are those of the example at d = {NOMINAL:,} elements.", soft_wrap=True)


def listed(entry: registry.Entry) -> Listed:
    """Collect what is shown of a registered part."""
    omega = delta = nbytes = None
    problem = ""
    try:
        part = build(entry.example)
    except SpecError as error:
        part, problem = None, str(error)
    if isinstance(part, Compressor | Exchange):
        omega, delta = part.omega(NOMINAL), part.delta(NOMINAL)
    if isinstance(part, Compressor):
        nbytes = part.nbytes(NOMINAL)
    return Listed(
        entry.name,
        entry.kind,
        tuple(_parameter(each) for each in inspect.signature(entry.make).parameters.values()),
        entry.summary,
        entry.origin,
        entry.example,
        NOMINAL,
        omega,
        delta,
        nbytes,
        problem,
    )


def _parameter(parameter: inspect.Parameter) -> str:
    """Format a parameter as in a spec: its name, and its default if it has one."""
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    plain = isinstance(parameter.default, bool | int | float | str | None)
    return f"{parameter.name}={repr(parameter.default) if plain else str(parameter.default).lower()}"


def _lines(each: Listed) -> list[str]:
    """Format a part. Prose is wrapped; specs are not, so that they can be copied."""
    facts = [
        *([f"unbiased, omega = {each.omega:.4g}"] if each.omega is not None else []),
        *([f"contractive, delta = {each.delta:.4g}"] if each.delta is not None else []),
        *([f"{each.nbytes:,} bytes"] if each.nbytes is not None else []),
    ]
    stranger = not each.origin.startswith("gradwire.")
    width = max(40, min(out.width, 100) - 4)
    prose = [*textwrap.wrap(each.summary, width), *([f"from {each.origin}"] if stranger else [])]
    call = f"{each.name}({', '.join(each.parameters)})" if each.parameters else each.name
    more = [f"for example {each.example}", *textwrap.wrap(each.problem, width), *(["; ".join(facts)] if facts else [])]
    return [call, *(f"    {line}" for line in (*prose, *more))]
