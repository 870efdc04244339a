"""From a matplotlib figure to inline SVG that takes every colour and font from the page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from gradwire.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours are written as tokens that no one would choose, and become CSS variables in the finished SVG.
_NAMES = ("card", "ink", "muted", "rule", *(f"run-{index}" for index in range(len(style.PALETTE))))
_TOKENS = {f"#0a0b{index:02x}": name for index, name in enumerate(_NAMES)}
CARD, INK, MUTED, RULE, *RUNS = _TOKENS
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gradwire",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib's own, for measuring; the page's font replaces it
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "xtick.color": RULE,
    "ytick.left": False,
    "lines.solid_capstyle": "round",
    **{f"{part}.facecolor": "none" for part in ("figure", "axes")},
    **{f"axes.spines.{side}": False for side in ("left", "right", "top")},
    **{f"{axis}tick.labelcolor": MUTED for axis in "xy"},
}


def inline(figure: Figure, prefix: str, attributes: str) -> str:
    """The figure as an inline element: no size of its own, ids of its own, colours and fonts of the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    header, _, body = text.getvalue().partition("<svg ")[2].partition(">")
    box = re.findall(r'viewBox="[^"]*"', header)[0]
    # matplotlib's own style element goes: its "*" rule would leak into the page
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = body.replace("xlink:href", "href").replace("'DejaVu Sans', sans-serif", "var(--font)")
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub("|".join(_TOKENS), lambda found: f"var(--{_TOKENS[found[0]]})", body)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {attributes} {box}>{body}'
