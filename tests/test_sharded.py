"""Stories of sharded models: two islands of two shards, every case that FSDP2 has, against native HSDP."""

from __future__ import annotations

import pytest
from story import play

pytestmark = pytest.mark.story

LIVES = "sharded_ranks.py"


@pytest.mark.parametrize("life", ["every_case", "others"])
def test_two_islands_of_two_shards(life: str) -> None:
    play(life, ranks=4, lives=LIVES, seconds=240)
