"""What is chosen by name: an unknown one is refused with the nearest that is known."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def check_name(kind: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that is not known (ValueError)."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise ValueError(f"unknown {kind} {name!r}; {hint}")
