"""A benchmark as one self-contained HTML page."""

from __future__ import annotations

from html import escape

from gradwire.lab.bench import Measured, Sheet
from gradwire.report import bench_bars, bench_words, words
from gradwire.report.whole import document, terms, titled

NONE = "&ndash;"
COLUMNS = (
    "ms a step<small>median [p10&ndash;p90]</small>",
    "compute",
    "selection",
    "wire",
    "wait",
    "hidden",
    "MB sent",
    "MB on the link",
    "&times; none",
    "&times; dense",
    "steps",
)


def render(sheet: Sheet) -> str:
    """Render one self-contained HTML document; the same sheet gives the same page."""
    headline = bench_words.headline(sheet)
    cells = "".join(_cell(sheet, cell) for cell in sheet.cells().values())
    body = f"""<header>
<p class="kicker">gradwire bench: what a step costs, and where its time goes</p>
<h1>{escape(headline)}</h1>
</header>
{_setting(sheet)}
{titled(bench_words.remarks(sheet), "remarks", "What to keep in mind")}{cells}
{titled(bench_words.reading(sheet), "reading", "How to read it")}"""
    return document(headline, body, sheet.command)


def _setting(sheet: Sheet) -> str:
    """A list of models, links, gradient sizes and versions."""
    named = {
        "Model": ", ".join(f"{m.name} ({m.parameters:,} parameters in {m.tensors} tensors)" for m in sheet.models),
        "Links": ", ".join(dict.fromkeys(bench_words.place(one) for one in sheet.measured)),
        "Gradients": ", ".join(f"{words.number(m.nbytes / 1e6)} MB" for m in sheet.models),
    }
    return terms(named, sheet.versions)


def _cell(sheet: Sheet, cell: tuple[Measured, ...]) -> str:
    """The bars and the table of one link."""
    title = bench_words.finding(sheet, cell)
    if len(sheet.models) > 1:
        title = f"{cell[0].model}. {title}"
    heads = "".join(f'<th scope="col">{column}</th>' for column in COLUMNS)
    rows = "\n".join(_row(sheet, one, cell) for one in cell)
    return f"""{bench_bars.html(cell, title)}<section>
<div class="scroll" role="region" aria-label="All numbers of this link, a wide table" tabindex="0">
<table>
<thead>
<tr><th scope="col" rowspan="1">Method</th>{heads}</tr>
</thead>
<tbody>
{rows}
</tbody>
</table>
</div>
</section>
"""


def _row(sheet: Sheet, one: Measured, cell: tuple[Measured, ...]) -> str:
    low, high = (words.number(seconds * 1e3) for seconds in (one.step_low, one.step_high))
    known = [words.number(seconds * 1e3) for seconds in (one.selection, one.wire, one.wait, one.hidden)]
    cells = (
        f"{words.number(one.step * 1e3)}<small>[{low}&ndash;{high}]</small>",
        words.number(one.compute * 1e3),
        *(known if one.apart else (NONE, known[1] if one.wire else NONE, NONE, NONE)),
        words.number(one.sent_bytes / 1e6),
        words.number(one.tx_bytes / 1e6) if one.tx_bytes else NONE,
        _ratio(sheet.ratio(one, "none")),
        _ratio(sheet.ratio(one, "dense")),
        f"{one.steps}",
    )
    kind = ' class="best"' if one is bench_words.winner(cell) else ""
    body = "".join(f"<td>{each}</td>" for each in cells)
    return f'<tr{kind}><th scope="row">{escape(one.method)}</th>{body}</tr>'


def _ratio(ratio: float) -> str:
    """Format a ratio with two decimals, or two digits below 0.1; a dash for NaN."""
    return NONE if ratio != ratio else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
