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
ROOM = 20
"""Characters that a name has beside the columns on a line of 80."""


def table(sheet: Sheet, cell: tuple[Measured, ...]) -> tuple[Table, list[str]]:
    """A row for every method, and lines for below with the names that are too long for a row."""
    names, below = numbered([one.method for one in cell], ROOM)
    title = f"{cell[0].model}, {bench_words.place(cell[0])}, {1e3 * cell[0].compute:.1f} ms of compute"
    found = Table(title=title, caption=CAPTION, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    found.add_column("method", no_wrap=True)
    for column in COLUMNS:
        found.add_column(column, justify="right", no_wrap=True)
    for name, one in zip(names, cell, strict=True):
        parts = (one.selection, one.wire, one.wait, one.hidden)
        ratio = sheet.ratio(one, "dense")
        found.add_row(
            escape(name),
            words.number(1e3 * one.step),
            "-".join(words.number(1e3 * end) for end in (one.step_low, one.step_high)),
            *(words.number(1e3 * part) if one.apart or (part and part is one.wire) else "-" for part in parts),
            words.number(one.sent_bytes / 1e6),
            "-" if math.isnan(ratio) else f"{ratio:.3f}",
        )
    return found, below
