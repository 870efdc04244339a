"""The whole page of a comparison, and writing it to disk."""

from html import escape
from pathlib import Path

from gradwire.lab.comparison.record import Comparison
from gradwire.report import figures, sentences, svg, table, words
from gradwire.report.whole import document, terms, titled, write_whole


def write(comparison: Comparison, path: str | Path) -> None:
    """Write the page to `path` atomically: a reader sees the old file or the complete new one.

    Raises:
        FileNotFoundError: the folder does not exist.
        ModuleNotFoundError: matplotlib is missing.
    """
    write_whole(render(comparison), Path(path))


def render(comparison: Comparison) -> str:
    """Render one self-contained HTML document; ModuleNotFoundError, in one sentence, if matplotlib is missing."""
    try:
        import matplotlib.style
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the report needs matplotlib: pip install 'gradwire[cli]'") from error
    with matplotlib.style.context(["default", svg.STYLE]):  # ignore the user's matplotlibrc
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
    """A list of model, corpus, link, ranks, budget and versions."""
    named = {
        "Model": comparison.model,
        "Corpus": comparison.corpus,
        "Link": comparison.link,
        "Ranks": str(comparison.ranks),
        "Budget": f"{words.number(comparison.budget_seconds)} s a run",
    }
    return terms(named, comparison.versions)
