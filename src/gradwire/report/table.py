"""The table of all numbers, one row per run."""

import re
from html import escape

from gradwire.lab.comparison.record import Comparison, Run
from gradwire.report import style, words

NONE = "&ndash;"


def html(comparison: Comparison) -> str:
    """Render the table of all numbers, one row per run."""
    rows = "\n".join(_row(comparison, index, run) for index, run in enumerate(comparison.runs))
    down = '<th scope="col" rowspan="2">'
    return f"""<section>
<h2>All numbers</h2>
<div class="scroll" role="region" aria-label="All numbers, a wide table" tabindex="0">
<table>
<thead>
<tr>{down}Run</th>{down}Steps</th>{down}ms per step<small>median [p10&ndash;p90]</small></th>
<th scope="colgroup" colspan="4" class="group"><span>MB sent per step</span></th>
{down}Final held-out loss</th>
{down}Time to {escape(comparison.baseline.name)}'s final loss</th>{down}Speed&#8209;up</th></tr>
<tr><th scope="col">ledger</th><th scope="col">link<small>tx_bytes</small></th>
<th scope="col">of which<small>headers</small></th>
<th scope="col">link less headers<small>/ ledger</small></th></tr>
</thead>
<tbody>
{rows}
</tbody>
</table>
</div>
</section>
"""


def _row(comparison: Comparison, index: int, run: Run) -> str:
    speedup = words.speedup(comparison, run)
    low, high = words.number(run.step_seconds_low * 1e3), words.number(run.step_seconds_high * 1e3)
    cells = (
        f"{run.points[-1].step:,}",
        f"{words.number(run.step_seconds * 1e3)}<small>[{low}&ndash;{high}]</small>",
        *_sent(run),
        words.loss(run.points[-1].loss),
        words.reached(comparison, run),
        speedup + words.TIMES if speedup else NONE,
    )
    spec = re.sub(r"([(=,_]+)", r"\1<wbr>", escape(run.spec))  # allow line breaks in a long spec
    head = f'<i style="background:var(--run-{style.colour(index)})"></i>{escape(run.name)}<code>{spec}</code>'
    kind = ' class="best"' if run is words.winner(comparison) else ""
    return f'<tr{kind}><th scope="row">{head}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _sent(run: Run) -> tuple[str, str, str, str]:
    """Cells on bytes: MB a step by ledger and by link, headers as % of the link, and (link less headers) / ledger."""
    steps = run.points[-1].step
    ledger = words.number(run.ledger_bytes / steps / 1e6) if steps else NONE
    if not run.link_bytes:
        return ledger, NONE, NONE, NONE
    link = words.number(run.link_bytes / steps / 1e6) if steps else NONE
    ratio = f"{run.link_payload / run.ledger_bytes:.3f}" if run.ledger_bytes else NONE
    return ledger, link, f"{100 * run.headers / run.link_bytes:.1f}&nbsp;%", ratio
