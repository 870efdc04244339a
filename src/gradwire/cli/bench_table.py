"""The figures of one link of a benchmark, as the terminal shows them."""

from __future__ import annotations

import math

from rich import box
from rich.markup import escape
from rich.table import Table

from gradwire.lab.bench import Measured, Sheet
from gradwire.report import bench_words, words

COLUMNS = ("step", "10-90 %", "select", "wire", "wait", "hidden", "MB", "x dense")
CAPTION = "ms and MB a step; for torch's own ways, wire is all that is not compute"


def table(sheet: Sheet, cell: tuple[Measured, ...]) -> Table:
    """A row for every method."""
    title = f"{cell[0].model}, {bench_words.place(cell[0])}, {1e3 * cell[0].compute:.1f} ms of compute"
    found = Table(title=title, caption=CAPTION, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    found.add_column("method", overflow="fold", min_width=14)
    for column in COLUMNS:
        found.add_column(column, justify="right", no_wrap=True)
    for one in cell:
        parts = (one.selection, one.wire, one.wait, one.hidden)
        ratio = sheet.ratio(one, "dense")
        found.add_row(
            escape(one.method),
            words.number(1e3 * one.step),
            "-".join(words.number(1e3 * end) for end in (one.step_low, one.step_high)),
            *(words.number(1e3 * part) if one.apart or (part and part is one.wire) else "-" for part in parts),
            words.number(one.sent_bytes / 1e6),
            "-" if math.isnan(ratio) else f"{ratio:.3f}",
        )
    return found
