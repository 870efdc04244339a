"""Stories of doors: a bare module equals DDP, and a snapshot disturbs nothing, whenever it is taken."""

from __future__ import annotations

import pytest
from story import play

pytestmark = pytest.mark.story

LIVES = "door_ranks.py"


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_bare_module_equals_ddp(ranks: int) -> None:
    play("bare_equals_ddp", ranks=ranks, lives=LIVES, seconds=200)


@pytest.mark.parametrize("find_unused", ["early", "late"])
def test_odd_parameters_of_a_bare_module(find_unused: str) -> None:
    play("bare_odd_parameters", find_unused, ranks=2, lives=LIVES)


@pytest.mark.parametrize("reentrant", ["yes", "no"])
def test_activation_checkpoints(reentrant: str) -> None:
    play("bare_checkpointed", reentrant, ranks=2, lives=LIVES)


def test_a_bare_module_refuses_in_sentences() -> None:
    play("bare_refusals", ranks=2, lives=LIVES)


@pytest.mark.parametrize(("who", "how"), [("all", "here"), ("one", "here"), ("one", "thread"), ("one", "signal")])
def test_a_snapshot_during_backward_disturbs_nothing(who: str, how: str) -> None:
    play("snapshots", who, how, ranks=2, lives=LIVES)


def test_loading_is_whole_or_nothing() -> None:
    play("loading_is_whole_or_nothing", ranks=2, lives=LIVES)


def test_old_checkpoints_load_and_go_on() -> None:
    play("old_checkpoints", ranks=2, lives=LIVES)


def test_odd_corners_of_ddp() -> None:
    play("ddp_corners", ranks=2, lives=LIVES)
