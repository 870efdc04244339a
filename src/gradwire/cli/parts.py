"""`gradwire list`: every part with its constants and bytes, those of installed packages too."""

from __future__ import annotations

from typing import get_args

from rich.markup import escape
from rich.table import Table

from gradwire import registry
from gradwire.cli.console import complain, out
from gradwire.compress.protocol import Compressor
from gradwire.exchange.protocol import Exchange
from gradwire.spec import SpecError, build

NOMINAL = 1_000_000
"""Elements for which constants and bytes are shown."""


def list_command() -> None:
    """Show every compressor, exchange, memory, rule and outer step."""
    for sentence in registry.load_installed():
        complain(sentence)
    for kind in get_args(registry.Kind):
        table = Table(kind, "", title_justify="left", show_lines=True, expand=True)
        for name, entry in registry.parts(kind).items():
            table.add_row(name, "\n".join(_lines(entry)))
        out.print(table)
    out.print(f"Constants and bytes are those of the example at d = {NOMINAL:,} elements.")


def _lines(entry: registry.Entry) -> list[str]:
    """What is said of a part: its summary, where it comes from if not from here, an example and the constants."""
    stranger = not entry.origin.startswith("gradwire.")
    return [
        escape(entry.summary),
        *([f"[dim]from[/] {entry.origin}"] if stranger else []),
        f"[dim]for example[/] {escape(entry.example)}",
        *_constants(entry.example),
    ]


def _constants(example: str) -> list[str]:
    """A line with the class of an example, its omega, delta and bytes; nothing for a part with a memory."""
    try:
        part = build(example)
    except SpecError as error:
        return [f"[red]{escape(str(error))}[/]"]
    if not isinstance(part, Compressor | Exchange):
        return []
    omega, delta = part.omega(NOMINAL), part.delta(NOMINAL)
    facts = [f"unbiased, omega = {omega:.4g}"] if omega is not None else []
    facts += [f"contractive, delta = {delta:.4g}"] if delta is not None else []
    facts += [f"{part.nbytes(NOMINAL):,} bytes"] if isinstance(part, Compressor) else []
    return [f"[dim]{'; '.join(facts)}[/]"] if facts else []
