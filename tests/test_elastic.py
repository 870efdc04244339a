"""Stories of workers that leave and join, on real ranks."""

from __future__ import annotations

import pytest
from story import play, watch

pytestmark = pytest.mark.story

LIVES = "elastic_ranks.py"


def test_a_group_that_torch_does_not_know_and_steps_that_are_not_committed() -> None:
    play("one_after_the_other", "members_are_a_group", "rolls_back", ranks=2, lives=LIVES)


def test_workers_leave_and_join() -> None:
    play("one_after_the_other", "leave_and_join", "local_leave_and_join", ranks=3, lives=LIVES)


def test_of_three_workers_one_is_killed_inside_an_exchange() -> None:
    codes, lines, errors = watch("killed_in_an_exchange", ranks=3, seconds=90, group=20, lives=LIVES)
    assert codes == [0, 0, -9], errors
    assert all(line["result"]["seconds"] < 20 for line in lines)
