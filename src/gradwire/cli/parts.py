"""`gradwire list`: every part with its constants and bytes."""

from __future__ import annotations

from rich.table import Table

from gradwire.cli.console import out
from gradwire.compress import Compressor
from gradwire.spec import EXAMPLES, REGISTRY, build

NOMINAL = 1_000_000
"""Elements for which constants and bytes are shown."""


def list_command() -> None:
    """Show every compressor, exchange, memory and rule."""
    for kind, parts in REGISTRY.items():
        table = Table(kind, "", title_justify="left", show_lines=True, expand=True)
        for name in sorted(parts):
            summary = (parts[name].__doc__ or "").split("\n")[0]
            table.add_row(
                name, "\n".join([summary, f"[dim]for example[/] {EXAMPLES[name]}", *_constants(EXAMPLES[name])])
            )
        out.print(table)
    out.print(f"Constants and bytes are those of the example at d = {NOMINAL:,} elements.")


def _constants(example: str) -> list[str]:
    """A line with the class of an example, its omega, delta and bytes; nothing for a part with a memory."""
    part = build(example)
    omega, delta = part.omega(NOMINAL), part.delta(NOMINAL)
    facts = [f"unbiased, omega = {omega:.4g}"] if omega is not None else []
    facts += [f"contractive, delta = {delta:.4g}"] if delta is not None else []
    facts += [f"{part.nbytes(NOMINAL):,} bytes"] if isinstance(part, Compressor) else []
    return [f"[dim]{'; '.join(facts)}[/]"] if facts else []
