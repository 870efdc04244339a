"""The figures of one link of a benchmark, as the terminal shows them."""

from __future__ import annotations

import math

from rich import box
from rich.markup import escape
from rich.table import Table

from gradwire.cli.console import numbered
from gradwire.lab.bench import Measured, Sheet
from gradwire.report import bench_words, words

COLUMNS = ("step", "10-90 %", "select", "wire", "wait", "hidden", "MB", "x dense")
CAPTION = (
    "ms and MB a step; hidden: what of select, wire and wait ran beside the backward pass; "
    "for torch's own ways, wire is all that is not compute"
)
LINE, MOST = 80, 20
"""Characters of a line, and of a name at most."""


def table(sheet: Sheet, cell: tuple[Measured, ...]) -> tuple[Table, list[str]]:
    """A row for every method, and lines for below with the names that are too long for a row."""
    figures = [_figures(sheet, one) for one in cell]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *figures, strict=True)]
    # Two characters behind every column, and one at either end.
    left = LINE - 4 - sum(width + 2 for width in widths)
    names, below = numbered([one.method for one in cell], min(MOST, left))
    title = f"{cell[0].model}, {bench_words.place(cell[0])}, {1e3 * cell[0].compute:.1f} ms of compute"
    found = Table(title=title, caption=CAPTION, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    found.add_column("method", no_wrap=True)
    for column in COLUMNS:
        found.add_column(column, justify="right", no_wrap=True)
    for name, row in zip(names, figures, strict=True):
        found.add_row(escape(name), *row)
    return found, below


def _figures(sheet: Sheet, one: Measured) -> tuple[str, ...]:
    """What stands in a method's row, column by column."""
    parts = (one.selection, one.wire, one.wait, one.hidden)
    ratio = sheet.ratio(one, "dense")
    return (
        words.number(1e3 * one.step),
        "-".join(words.number(1e3 * end) for end in (one.step_low, one.step_high)),
        *(words.number(1e3 * part) if one.apart or (part and part is one.wire) else "-" for part in parts),
        words.number(one.sent_bytes / 1e6),
        "-" if math.isnan(ratio) else f"{ratio:.3f}",
    )
