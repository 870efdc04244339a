"""The terminal's table of one link's benchmark results."""

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
    "ms and MB a step; hidden: the part of select, wire and wait that overlaps with backward; "
    "for torch's own methods, wire is all time beside compute"
)
LINE_WIDTH, NAME_WIDTH = 80, 20
"""Characters of a line, and the most a method's name gets."""


def table(sheet: Sheet, cell: tuple[Measured, ...]) -> tuple[Table, list[str]]:
    """Make the table, a row for every method, and the lines below it with names too long for a row."""
    figures = [_figures(sheet, one) for one in cell]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *figures, strict=True)]
    # Rich adds two characters after every column and one at either end of the table.
    left = LINE_WIDTH - 4 - sum(width + 2 for width in widths)
    names, below = numbered([one.method for one in cell], min(NAME_WIDTH, left))
    title = f"{cell[0].model}, {bench_words.place(cell[0])}, {1e3 * cell[0].compute:.1f} ms of compute"
    found = Table(title=title, caption=CAPTION, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    found.add_column("method", no_wrap=True)
    for column in COLUMNS:
        found.add_column(column, justify="right", no_wrap=True)
    for name, row in zip(names, figures, strict=True):
        found.add_row(escape(name), *row)
    return found, below


def _figures(sheet: Sheet, one: Measured) -> tuple[str, ...]:
    """The cells of a method's row, in the order of `COLUMNS`."""
    parts = (one.selection, one.wire, one.wait, one.hidden)
    ratio = sheet.ratio(one, "dense")
    return (
        words.number(1e3 * one.step),
        "-".join(words.number(1e3 * end) for end in (one.step_low, one.step_high)),
        *(words.number(1e3 * part) if one.apart or (part and part is one.wire) else "-" for part in parts),
        words.number(one.sent_bytes / 1e6),
        "-" if math.isnan(ratio) else f"{ratio:.3f}",
    )
