"""The figure of a benchmark's link: a stacked bar for each method, as inline SVG in percent of the page's width."""

from __future__ import annotations

import math
from html import escape

from gradwire.lab.bench import Measured
from gradwire.report import words

PARTS = {"compute": "--run-0", "selection": "--run-2", "wire": "--run-1", "wait": "--run-4", "other": "--run-5"}
"""The colours of the parts of a step."""

WHOLE = "beside compute (torch's own methods)"
ROW, BAR, HEAD = 46, 16, 34  # pixels


def html(cell: tuple[Measured, ...], title: str) -> str:
    """A figure with its title."""
    shown = reach(cell)
    rows = "".join(_row(one, HEAD + ROW * index, shown) for index, one in enumerate(cell))
    steps = "; ".join(f"{one.method}: {words.number(one.step * 1e3)} ms" for one in cell)
    return (
        f'<figure>\n<h2>{escape(title)}</h2>\n{_key(cell)}<svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="{escape(steps)}" style="height:{HEAD + ROW * len(cell)}px">{_scale(shown, len(cell))}{rows}'
        "</svg>\n</figure>\n"
    )


def reach(cell: tuple[Measured, ...]) -> float:
    """Seconds that the figure's width stands for: the longest step, but at most 8 times the shortest."""
    longest, shortest = max(one.step for one in cell), min(one.step for one in cell)
    return min(longest, 8 * shortest)


def parts(one: Measured) -> dict[str, float]:
    """Seconds of the stacked parts of a step; they sum to the step, or to compute if that is longer."""
    selection, wire, wait, other = one.exposed
    return {"compute": one.compute, "selection": selection, "wire": wire, "wait": wait, "other": other}


def _key(cell: tuple[Measured, ...]) -> str:
    """The key of the parts' colours."""
    names = [(name, color, 1.0) for name, color in PARTS.items()]
    if any(one.wire and not one.apart for one in cell):
        names.append((WHOLE, PARTS["wire"], 0.5))
    swatches = (
        f'<span style="white-space:nowrap;margin-right:18px"><i style="display:inline-block;width:11px;height:11px;'
        f'border-radius:3px;margin-right:6px;opacity:{tint};background:var({color})"></i>{escape(name)}</span>'
        for name, color, tint in names
    )
    return f'<p style="margin:0 0 8px;font-size:14px;color:var(--muted)">{" ".join(swatches)}</p>\n'


def _scale(shown: float, rows: int) -> str:
    """Vertical hairlines at round numbers of milliseconds."""
    lines, stride = "", _stride(shown * 1e3)
    for index in range(int(shown * 1e3 / stride) + 1):
        x, unit = 100 * index * stride / (shown * 1e3), "" if index else " ms"
        anchor = "start" if index == 0 else "end" if x > 96 else "middle"
        lines += (
            f'<line x1="{x:.3f}%" x2="{x:.3f}%" y1="20" y2="{HEAD + ROW * rows}" stroke="var(--rule)"/>'
            f'<text x="{x:.3f}%" y="13" text-anchor="{anchor}" font-size="12" fill="var(--muted)">'
            f"{index * stride:,.10g}{unit}</text>"
        )
    return lines


def _stride(whole: float) -> float:
    """The largest of 1, 2 or 5 times a power of ten that fits at least four times into `whole`."""
    ten = 10.0 ** math.floor(math.log10(whole / 4))
    return max(ten * factor for factor in (1, 2, 5) if ten * factor <= whole / 4)


def _row(one: Measured, y: int, shown: float) -> str:
    """A method's bar, with its name and total above."""
    total = f"{words.number(one.step * 1e3)} ms"
    return (
        f'<text x="0" y="{y + 13}" font-size="13" font-weight="600" fill="var(--ink)">{escape(one.method)}</text>'
        f'<text x="100%" y="{y + 13}" text-anchor="end" font-size="13" fill="var(--ink)">{total}</text>'
        f"{_bar(one, y + 20, shown)}"
    )


def _bar(one: Measured, y: int, shown: float) -> str:
    """The parts side by side; a bar longer than the figure is cut, with two gaps before its end."""
    drawn, start = "", 0.0
    for name, seconds in parts(one).items():
        width = min(seconds, shown - start)
        if width > 0:
            tint = "" if one.apart or name == "compute" else ' opacity="0.5"'
            drawn += (
                f'<rect x="{100 * start / shown:.3f}%" y="{y}" width="{100 * width / shown:.3f}%" height="{BAR}" '
                f'fill="var({PARTS[name]})"{tint}/>'
            )
            start += width
    if one.step > shown * 1.001:
        drawn += f'<rect x="96%" y="{y}" width="0.6%" height="{BAR}" fill="var(--card)"/>'
        drawn += f'<rect x="97.2%" y="{y}" width="0.6%" height="{BAR}" fill="var(--card)"/>'
    return drawn
