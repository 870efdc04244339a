"""Convert a matplotlib figure to inline SVG that takes every colour and font from the page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from gradwire.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Figures are drawn in unlikely colours that serve as tokens; the finished SVG has CSS variables in their place.
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
    """Render a figure as an inline SVG element without a fixed size, with ids behind `prefix` and the page's styles."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    header, _, body = text.getvalue().partition("<svg ")[2].partition(">")
    box = re.findall(r'viewBox="[^"]*"', header)[0]
    # Remove matplotlib's style element: its "*" rule would apply to the whole page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = body.replace("xlink:href", "href").replace("'DejaVu Sans', sans-serif", "var(--font)")
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub("|".join(_TOKENS), lambda found: f"var(--{_TOKENS[found[0]]})", body)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {attributes} {box}>{body}'
