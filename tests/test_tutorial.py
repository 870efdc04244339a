"""The tutorial is followed by hand: its files, its changes, its commands, its numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from story import play

from gradwire import net

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"


@pytest.fixture
def tutorial(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tutorial

    return tutorial


@pytest.mark.story
def test_the_tutorials_files_run(tutorial: ModuleType, tmp_path: Path) -> None:
    """Its files run a few steps on loopback, and its script starts ranks that do nothing on links."""
    for name, text in tutorial.files(PAGE.read_text()).items():
        (tmp_path / name).write_text(text)
    runs: dict[str, dict[str, float]] = {}
    for script, steps, ranks in (("plain.py", "20", 1), ("dense.py", "20", 2), ("local.py", "60", 2)):
        first = play(str(tmp_path / script), steps, ranks=ranks, lives="tutorial_ranks.py")[0]
        runs[script] = tutorial.numbers(first["printed"].strip())
        assert 2 < runs[script]["loss"] < 4.5  # 5.5 is a guess among 256 bytes
    assert runs["dense.py"]["bytes"] > 205_312 * 4  # loopback counts what others send, too
    if net.refusal() is None:
        (tmp_path / "rank.py").write_text("import os, sys\nprint(os.environ['RANK'], sys.argv[1])\n")
        assert sorted(tutorial.run(tmp_path, "python link.py rank.py 7 10mbit").splitlines()) == ["0 7", "1 7"]


def test_the_tutorial_shows_what_its_commands_printed(tutorial: ModuleType) -> None:
    results: Mapping[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "tutorial.json").read_text())
    page = PAGE.read_text()
    for name, text in tutorial.blocks(results).items():
        assert f"<!-- {name} -->\n{text}<!-- /{name} -->" in page
    for command in re.findall(r"^\$ (.*)$", page, re.MULTILINE):
        assert command in results["printed"]
    commands = ("python plain.py 500", "python link.py dense.py 40 10mbit", "python link.py local.py 1000 10mbit")
    plain, slow, local = (tutorial.numbers(results["printed"][command]) for command in commands)
    assert slow["bytes"] > 205_312 * 4 > 1000 * local["bytes"]
    assert "less than a\nhundredth" in page
    assert plain["ms"] < slow["ms"] / 100
    assert 32 * 256 + 512 * 256 + 256 + 256 * 256 + 256 == 205_312
    assert "205,312 parameters" in page


def test_a_change_of_lines_that_are_not_there_is_refused(tutorial: ModuleType) -> None:
    assert tutorial.changed("a\nb\nc\n", "-b\n+d\n...\n c\n+e\n") == "a\nd\nc\ne\n"
    with pytest.raises(ValueError, match="at 0 places"):
        tutorial.changed("a\n", " b\n+c\n")


def test_the_grounds_of_the_choice_are_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import which_page

    page = (ROOT / "docs" / "which.md").read_text()
    assert f"<!-- grounds -->\n{which_page.grounds()}<!-- /grounds -->" in page
