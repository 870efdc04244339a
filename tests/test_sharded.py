"""Stories of sharded models: two islands of two shards, every case of FSDP2, compared with native HSDP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from story import play

ROOT = Path(__file__).parents[1]


@pytest.mark.story
@pytest.mark.parametrize("life", ["every_case", "others"])
def test_two_islands_of_two_shards(life: str) -> None:
    play(life, ranks=4, lives="sharded_ranks.py", seconds=240)


def test_the_page_has_the_measured_overlap() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "overlap.json").read_text())["rows"]
    page = (ROOT / "docs" / "sharded.md").read_text()
    barred = [row for row in rows if row["bar"] is not None]
    assert all(row["holds"] and f"| {row['value']:.2f} |" in page for row in barred)
    assert len(barred) == 2
