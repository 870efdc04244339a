"""The page as a whole, and its way to disk."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from gradwire.lab.results import Comparison
from gradwire.report import figures, sentences, style, svg, table, words
from gradwire.report.whole import write_whole


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
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(headline)}</title>
<style>
{style.variables()}{style.CSS}</style>
</head>
<body>
<main>
<header>
<p class="kicker">{escape(comparison.title)}</p>
<h1>{escape(headline).replace(" %", "&nbsp;%")}</h1>
<p class="deck">{escape(sentences.deck(comparison))}</p>
</header>
{_setting(comparison)}
{_list(remarks, "remarks", "What to keep in mind")}{drawn}
{table.html(comparison)}
{_list(sentences.reading(comparison), "reading", "How to read it")}<section>
<h2>Reproduce it</h2>
<pre><code>{escape(comparison.command)}</code></pre>
</section>
</main>
</body>
</html>
"""


def _setting(comparison: Comparison) -> str:
    """Model, corpus, link, ranks, budget and versions as one line of terms."""
    terms = {
        "Model": comparison.model,
        "Corpus": comparison.corpus,
        "Link": comparison.link,
        "Ranks": str(comparison.ranks),
        "Budget": f"{words.number(comparison.budget_seconds)} s a run",
        "Versions": ", ".join(f"{name} {version}" for name, version in comparison.versions.items()) or "not recorded",
    }
    return "<dl>" + "".join(f"<div><dt>{t}</dt><dd>{escape(d)}</dd></div>" for t, d in terms.items()) + "</dl>"


def _list(items: Sequence[str], kind: str, title: str) -> str:
    """A titled list; nothing at all when there are no items."""
    lines = "".join(f"<li>{escape(item)}</li>\n" for item in items)
    return f'<section class="{kind}">\n<h2>{title}</h2>\n<ul>\n{lines}</ul>\n</section>\n' if items else ""
