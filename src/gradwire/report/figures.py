"""The three figures with their titles, each drawn wide and narrow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from gradwire.lab.comparison.record import Comparison
from gradwire.report import bars, curves, svg, view, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def html(comparison: Comparison) -> str:
    """The three figures: loss against time, loss against traffic, and the parts of a step."""
    parts = "; ".join(f"{run.name}: {' + '.join(map(words.number, bars.parts(run)))}" for run in comparison.runs)
    return "\n".join(
        (
            _losses("time", "Held-out loss over wall-clock time", comparison, view.SECONDS),
            _losses("sent", "Held-out loss over megabytes sent", comparison, view.MEGABYTES),
            _figure("step", "Where the time of one step goes", parts, partial(bars.draw, comparison)),
        )
    )


def _losses(name: str, title: str, comparison: Comparison, across: view.Across) -> str:
    """A figure of losses; every run's note describes it for screen readers."""
    notes = "; ".join(f"{run.name}: {across.note(comparison, run)}" for run in comparison.runs)
    return _figure(name, title, notes, partial(curves.draw, comparison, across))


def _figure(name: str, title: str, label: str, draw: Callable[[bool], Figure]) -> str:
    """A figure with its title, drawn wide and narrow; the style sheet shows one of them."""
    described = f'role="img" aria-label="{escape(f"{title}. {label}")}"'
    drawings = (
        svg.inline(draw(wide), f"{name}-{kind}", f'class="{kind}" {described}')
        for wide, kind in ((True, "wide"), (False, "narrow"))
    )
    return f"<figure>\n<h2>{title}</h2>\n" + "".join(drawings) + "</figure>"
