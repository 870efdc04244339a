"""What the docs show runs, and what they claim holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import gradwire as gw
from gradwire import spec
from gradwire.wire import index

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readmes_python_runs() -> None:
    torch.manual_seed(0)
    exec("\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL)), {})


def test_the_readmes_diff_is_the_example() -> None:
    """Four added lines, the ones that stand in examples/ddp.py."""
    example = (ROOT / "examples" / "ddp.py").read_text()
    (diff,) = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)
    added = [line[1:] for line in diff.splitlines() if line.startswith("+")]
    assert len(added) == 4
    for line in added:
        assert line.strip() in example or line == "print(hook.ledger.bytes)"
    assert (
        len([line for line in example.splitlines() if re.search(r"gradwire\b|hook\.", line) and "torchrun" not in line])
        <= 6
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_specs_in_the_docs_are_specs(page: Path) -> None:
    parts = {name for kind in spec.REGISTRY.values() for name in kind}
    for quoted in re.findall(r"`([a-z0-9]+\([^`]*\))`", page.read_text()):
        if quoted.split("(")[0] in parts and "..." not in quoted:
            assert spec.build(
                quoted if "density" in quoted or "(values" not in quoted else quoted.replace("(", "(0.1, ")
            ), quoted


def test_bytes_are_what_formats_md_says() -> None:
    """The table's last column: bits a kept value at a density of 1 %."""
    d, k = 1_000_000, 10_000
    assert 8 * index.nbytes(d, k) / k == pytest.approx(8.6, abs=0.05)
    for compressor, bits, kept in (
        (gw.Identity(), 32, d),
        (gw.Natural(), 9, d),
        (gw.TopK(0.01), 8.6 + 32, k),
        (gw.TopK(0.01, "natural"), 8.6 + 9, k),
        (gw.RandK(0.01), 32, k),
    ):
        assert 8 * compressor.nbytes(d) / kept == pytest.approx(bits, abs=0.05)
