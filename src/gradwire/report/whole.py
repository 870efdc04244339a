"""Shared by all pages: the HTML frame, lists of terms and remarks, and writing to disk."""

import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from gradwire.report import style


def document(title: str, body: str, command: str) -> str:
    """Wrap a body as one self-contained HTML document that ends with the command to reproduce it."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{style.variables()}{style.CSS}</style>
</head>
<body>
<main>
{body}<section>
<h2>Reproduce it</h2>
<pre><code>{escape(command)}</code></pre>
</section>
</main>
</body>
</html>
"""


def terms(named: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """Render named facts and versions as a description list."""
    every = {
        **named,
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded",
    }
    return "<dl>" + "".join(f"<div><dt>{t}</dt><dd>{escape(d)}</dd></div>" for t, d in every.items()) + "</dl>"


def titled(items: Sequence[str], kind: str, title: str) -> str:
    """Render a titled list; "" if there are no items."""
    unbroken = r'<span style="white-space:nowrap">\g<0></span>'  # no line break inside an option such as --rate
    lines = "".join(f"<li>{re.sub('--[a-z]+', unbroken, escape(item))}</li>\n" for item in items)
    return f'<section class="{kind}">\n<h2>{title}</h2>\n<ul>\n{lines}</ul>\n</section>\n' if items else ""


def write_whole(text: str, path: Path) -> None:
    """Write text as UTF-8 atomically: a reader sees the old file or the complete new one.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the report's folder must exist, got {str(path.parent)!r}")
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(text.encode("utf-8", "replace"))
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
