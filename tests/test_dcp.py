"""Distributed checkpoints keep every rank's memory, and any number of workers can resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from story import play

LIVES = "dcp_ranks.py"


@pytest.mark.story
def test_two_workers_become_four_and_two(tmp_path: Path) -> None:
    """With the same number bit for bit; otherwise the mean is kept, up to half a unit in the last place of float32."""
    for line in play("become_four_and_two", str(tmp_path), ranks=4, lives=LIVES):
        two, four, again, back = line["result"]
        assert two == again == [0.0] * 5
        assert 0 < max(*four, *back) < 2**-24


@pytest.mark.story
def test_errors_in_bfloat16_come_back(tmp_path: Path) -> None:
    """One worker gets their mean, which both ways to save round to the nearest."""
    for line in play("keeps_halves", str(tmp_path), ranks=2, lives=LIVES):
        assert line["result"] <= 2.0**-7


@pytest.mark.story
def test_what_does_not_fit_is_refused_on_every_rank(tmp_path: Path) -> None:
    for line in play("refuses", str(tmp_path), ranks=2, lives=LIVES):
        assert len(line["result"]) >= 10


@pytest.mark.story
def test_an_island_is_dealt_anew(tmp_path: Path) -> None:
    play("islands", str(tmp_path), ranks=4, lives=LIVES)
