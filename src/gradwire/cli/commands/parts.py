"""The options of `gradwire list`."""

from __future__ import annotations

from typing import Annotated

import typer


def list_command(
    word: Annotated[
        str | None, typer.Argument(help="Show only parts with this in their name, kind or summary.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, a list of objects.")] = False,
) -> None:
    """Show compressors, exchanges, memories, rules and outer steps: parameters, an example, constants, bytes."""
    from gradwire.cli.parts import show

    show(word, json)
