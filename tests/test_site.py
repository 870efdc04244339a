"""The docs as a site: one strict build, which several tests read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pytest

import gradwire
from gradwire import net, registry, testing

ROOT = Path(__file__).parents[1]
HOMES = {"compressor": "compress", "exchange": "exchange", "memory": "memory", "rule": "memory", "outer": "outer"}
FRAMEWORKS = {
    "accelerate": ("attach", "prepare_local"),
    "transformers": ("attach", "local"),
    "lightning": ("AttachStrategy", "FabricAttachStrategy", "FabricLocalStrategy", "LocalStrategy"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build strictly: dead links, dead anchors, unknown names and pages outside the navigation are errors."""
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(place)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    return place


class Loads(HTMLParser):
    """Collects what a browser fetches for a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(found.get("src") or "")
        if tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(found.get("href") or "")


def test_pages_load_nothing_from_other_servers(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        loads = Loads(text).found
        assert loads
        assert not [place for place in loads if re.match("(https?:)?//", place)], page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"""(?:url\(|@import )["']?(?:https?:)?//[^)"']*""", sheet.read_text()), sheet
    assert not [file for file in site.rglob("*.py") if file.is_file()]


def test_every_public_name_has_an_entry(site: Path) -> None:
    """The inventory lists every name for which the API reference has a heading."""
    packed = (site / "objects.inv").read_bytes().split(b"zlib.\n", 1)[1]
    entries = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    public = {f"gradwire.{name}" for name in gradwire.__all__}
    public |= {f"gradwire.net.{name}" for name in net.__all__} | {
        f"gradwire.testing.{name}" for name in testing.__all__
    }
    public |= {f"gradwire.integrations.{module}.{name}" for module, names in FRAMEWORKS.items() for name in names}
    theory = import_module("gradwire.lab.convex.theory")
    public |= {f"gradwire.lab.convex.theory.{name}" for name in theory.__all__ if name != "METHODS"}
    for kind, home in HOMES.items():
        parts = [part for part in registry.parts(kind).values() if part.origin.startswith("gradwire.")]  # type: ignore[arg-type]
        assert parts
        public |= {f"gradwire.{home}.{part.make.__name__}" for part in parts}
    assert not public - entries
    assert len(public) > 110
    for name in public:
        module, _, last = name.rpartition(".")
        if "integrations" not in module:
            assert hasattr(import_module(module), last)


def test_entries_have_signatures_that_link_to_what_they_name(site: Path) -> None:
    page = (site / "api" / "index.html").read_text()
    entry = page[page.index('id="gradwire.local"') : page.index('id="gradwire.Local"')]
    assert "every" in entry
    assert re.search(r'href="exchange/#gradwire\.Exchange"', entry)
    assert re.search(r'href="#gradwire\.Every"', entry)
    deft = (site / "api" / "exchange" / "index.html").read_text()
    signature = deft[deft.index('id="gradwire.exchange.DEFT"') :].split("</pre>")[0]
    assert "DEFT(\n    density: float,\n" in re.sub("<[^>]*>", "", signature)


def test_prose_links_to_the_reference(site: Path) -> None:
    page = (site / "checkpoints" / "index.html").read_text()
    for name in ("gradwire.save", "gradwire.Stateful", "gradwire.Hook.state_dict", "gradwire.merge"):
        assert f'href="../api/#{name}"' in page


@pytest.mark.parametrize(
    ("word", "pages"),
    [
        ("no_sync", ("api/#gradwire.Hook.no_sync", "sharded/#what-works", "#what-to-know")),
        ("scaler", ("api/#gradwire.attach", "trainers/#counters-and-curves", "#what-to-know")),
        ("load_state_dict", ("api/#gradwire.Hook.load_state_dict", "checkpoints/#dictionaries-of-your-own")),
    ],
)
def test_search_finds_names(site: Path, word: str, pages: tuple[str, ...]) -> None:
    """Words are split as the search splits them, at the matches of its separator."""
    index = json.loads((site / "search" / "search_index.json").read_text())
    separator = re.compile(index["config"]["separator"])
    found = {
        entry["location"]
        for entry in index["docs"]
        if word in separator.split(re.sub("<[^>]*>", "", f"{entry['title']} {entry['text']}").lower())
    }
    assert set(pages) <= found


def test_pages_have_highlighting_copying_and_a_dark_scheme(site: Path) -> None:
    page = (site / "tutorial" / "index.html").read_text()
    assert '<span class="kn">import</span>' in page
    assert '<span class="gi">' in page  # added lines
    assert "content.code.copy" in page
    assert page.count('name="__palette"') == 2
    assert 'data-md-color-scheme="slate"' in page


def test_the_readmes_sections_of_the_docs_exist(site: Path) -> None:
    """README and CONTRIBUTING link to sections of pages by name."""
    for text in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for page, anchor in re.findall(r"\(docs/([\w-]+)\.md#([\w-]+)\)", text.read_text()):
            assert f'id="{anchor}"' in (site / page / "index.html").read_text(), (page, anchor)
