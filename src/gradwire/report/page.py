"""The page as a whole, and its way to disk."""

from html import escape
from pathlib import Path

from gradwire.lab.comparison.record import Comparison
from gradwire.report import figures, sentences, svg, table, words
from gradwire.report.whole import document, terms, titled, write_whole


def write(comparison: Comparison, path: str | Path) -> None:
    """Write the page to `path` in one step: a reader finds the old file or the whole new one, never a part."""
    write_whole(render(comparison), Path(path))


def render(comparison: Comparison) -> str:
    """One self-contained HTML document. Needs matplotlib, and says so in one sentence where it is missing."""
    try:
        import matplotlib.style
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the report needs matplotlib: pip install 'gradwire[cli]'") from error
    with matplotlib.style.context(["default", svg.STYLE]):  # the user's own matplotlibrc does not leak in
        drawn = figures.html(comparison)
    headline, remarks = sentences.headline(comparison), sentences.remarks(comparison)
    body = f"""<header>
<p class="kicker">{escape(comparison.title)}</p>
<h1>{escape(headline).replace(" %", "&nbsp;%")}</h1>
<p class="deck">{escape(sentences.deck(comparison))}</p>
</header>
{_setting(comparison)}
{titled(remarks, "remarks", "What to keep in mind")}{drawn}
{table.html(comparison)}
{titled(sentences.reading(comparison), "reading", "How to read it")}"""
    return document(headline, body, comparison.command)


def _setting(comparison: Comparison) -> str:
    """Model, corpus, link, ranks, budget and versions as one line of terms."""
    named = {
        "Model": comparison.model,
        "Corpus": comparison.corpus,
        "Link": comparison.link,
        "Ranks": str(comparison.ranks),
        "Budget": f"{words.number(comparison.budget_seconds)} s a run",
    }
    return terms(named, comparison.versions)
