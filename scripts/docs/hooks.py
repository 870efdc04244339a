"""What MkDocs does for these pages beyond its own: names of the API become links, and a figure opens in full size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig

OBJECTS = {"hook": "gradwire.Hook", "local": "gradwire.Local", "gw": "gradwire"}
"""What the pages call an object, and its class or module."""

NAME = re.compile(r"([A-Za-z_][\w.]*)(?:\(.*\))?", re.DOTALL)


def on_config(config: MkDocsConfig) -> None:
    """Called by MkDocs when it has read mkdocs.yml. The pages of the API reference decide what names there are."""
    pages = sorted((Path(config.docs_dir) / "api").glob("*.md"))
    public = [name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)]
    config.markdown_extensions.append(Links(names(public)))  # pyright: ignore[reportArgumentType] - an instance will do


def names(public: list[str]) -> dict[str, str]:
    """The identifier of every public name by what prose calls it: its full address, or a class's own name."""
    known = {name: name for name in public}
    ends = [name.rsplit(".", 1)[1] for name in public]
    short = {end: name for end, name in zip(ends, public, strict=True) if end[0].isupper() and ends.count(end) == 1}
    return short | known


class Links(Extension):
    """A Markdown extension that links code which is a public name, and figures to themselves."""

    def __init__(self, known: Mapping[str, str]) -> None:
        super().__init__()
        self.known = known

    def extendMarkdown(self, md: Markdown) -> None:
        """Called by Markdown. Runs after inline patterns (20)."""
        md.treeprocessors.register(_Linker(md, self.known), "gradwire-links", 15)


class _Linker(Treeprocessor):
    def __init__(self, md: Markdown, known: Mapping[str, str]) -> None:
        super().__init__(md)
        self.known = known

    def run(self, root: Element) -> None:
        self._walk(root)

    def _walk(self, parent: Element) -> None:
        for place, child in enumerate(list(parent)):
            if child.tag == "code" and (target := self._target(child.text or "")):
                parent[place] = _around(child, "autoref", {"identifier": target, "optional": ""})
            elif child.tag == "img":
                parent[place] = _around(child, "a", {"href": child.get("src", ""), "class": "figure"})
            elif child.tag not in ("a", "pre", "autoref", "h1", "h2", "h3", "h4"):
                self._walk(child)

    def _target(self, text: str) -> str | None:
        match = NAME.fullmatch(text.strip())
        if not match:
            return None
        first, _, rest = match[1].partition(".")
        if rest and first in OBJECTS:
            return f"{OBJECTS[first]}.{rest.split('.')[0]}"
        owner = next((name for name in (match[1], match[1].rpartition(".")[0]) if name in self.known), None)
        return owner and self.known[owner] + match[1][len(owner) :]


def _around(child: Element, tag: str, attributes: dict[str, str]) -> Element:
    """The child inside a new element that takes its place."""
    outer = Element(tag, attributes)
    outer.tail, child.tail = child.tail, None
    outer.append(child)
    return outer
