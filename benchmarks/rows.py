"""The results of a benchmark: rows with a name, a value, a bar (a bound that it must keep), and whether it holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

Row = dict[str, "str | float | bool | None"]

RESULTS = Path(__file__).parent / "results"


def row(name: str, value: float, least: float | None = None, most: float | None = None) -> Row:
    """Make a row; `least` and `most` are the bar, and without one the row has no bound."""
    bar = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else None
    holds = None if bar is None else (least is None or value >= least) and (most is None or value <= most)
    return {"name": name, "value": value, "bar": bar, "holds": holds}


def show(rows: Sequence[Row]) -> None:
    """Print rows as a table."""
    width = max(len(str(each["name"])) for each in rows)
    for each in rows:
        bar = "" if each["bar"] is None else f"  bar {each['bar']:<9}{'holds' if each['holds'] else 'MISSED'}"
        print(f"{each['name']:<{width}}{each['value']:>10.3f}{bar}", flush=True)


def write(name: str, content: object) -> None:
    """Write a result as JSON to the folder of results."""
    (RESULTS / name).write_text(json.dumps(content, indent=1) + "\n")
