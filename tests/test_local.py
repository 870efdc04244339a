"""Local steps on real ranks: what every door promises, and what this one refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from local_ranks import CASES
from story import play, watch
from torch import nn

import gradwire as gw

LIVES = "local_ranks.py"
TWO_RANKS = (
    "rounds_end_alike",
    "is_parameter_averaging",
    "resumes_in_a_round",
    "gloo_is_lockstep",
    "loops",
    "not_finite",
    "refuses",
)


@pytest.mark.story
def test_rounds_loops_resumption_and_refusals_on_two_ranks() -> None:
    """The functions of these names are in local_ranks.py."""
    for line in play("one_after_the_other", *TWO_RANKS, ranks=2, lives=LIVES):
        told = line["result"]
        assert set(told) == set(TWO_RANKS)
        assert told["resumes_in_a_round"] == dict.fromkeys(CASES, True)
        exchanges, steps, _ = told["rounds_end_alike"]["default"]
        assert (exchanges, steps) == (4, 12)  # after 5 and 10 steps, and two calls of `finish`


@pytest.mark.story
def test_islands_and_other_numbers_of_workers() -> None:
    play("islands", ranks=4, lives=LIVES)


@pytest.mark.story
def test_sharded_models() -> None:
    play("sharded", ranks=4, lives=LIVES)


@pytest.mark.story
def test_a_dead_rank_is_an_error_in_time_and_the_others_regroup() -> None:
    codes, lines, errors = watch("dies", ranks=3, seconds=60, group=20, lives=LIVES)
    assert codes == [0, 0, -9], errors
    for line in lines:
        assert line["result"]["seconds"] < 20
        assert line["result"]["steps"] == 13


@pytest.mark.story
def test_killed_in_an_exchange_a_restart_loses_one_round_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end the model is that of a run that was never killed."""
    ends = []
    for folder, until in (("killed", "14"), ("killed", ""), ("whole", "")):
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.setenv("SAVES", str(tmp_path / folder))
        codes, lines, errors = watch("saves_and_is_killed", until, ranks=2, seconds=60, group=20, lives=LIVES)
        if until:
            assert codes[1] == -9, errors
            assert codes[0] != 0
        else:
            assert codes == [0, 0], errors
            ends.append([line["result"] for line in sorted(lines, key=lambda line: line["rank"])])
    restarted, whole = ends
    assert [end["began"] for end in restarted] == [10, 10]
    assert [end["ended"] for end in restarted] == [20, 20]
    assert [end["model"] for end in restarted] == [end["model"] for end in whole]


def refuse(words: str, *arguments: object, error: type[Exception] = ValueError, **options: object) -> None:
    net = nn.Linear(3, 2)
    given = arguments or (net, torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(error, match=re.escape(words)):
        gw.local(*given, **options)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("every must be a whole number of steps, at least 1, or Every(...), got 0", {"every": 0}),
        ("got 2.5", {"every": 2.5}),
        ("delay must be a whole number of steps from 0 to 9, got 10", {"delay": 10}),
        ("delay must be a whole number of steps from 0 to 9, got -1", {"delay": -1}),
        ("catch_up must be 'add', 'mix' or 'drop', got 'wait'", {"catch_up": "wait"}),
        ("fragments must be a whole number from 1 to 10, got 11", {"fragments": 11}),
        ("keep must be 'device' or 'cpu', got 'disk'", {"keep": "disk"}),
        ("bucket_mb must be positive, got -1", {"bucket_mb": -1}),
        ("DGC keeps a momentum of gradients", {"exchange": "dgc(topk(density=0.1))"}),
        ("Momentum keeps a momentum of gradients", {"exchange": "ef21sgdm(topk(density=0.1))"}),
        ("iterates compresses a model", {"exchange": "gdci(natural, gamma=0.5)"}),
        ("lr_in_memory keeps errors", {"exchange": "ef(topk(density=0.1), lr_in_memory=true)"}),
        ("momentum on top of the optimizer's own; use sgd", {"every": 1, "outer": "nesterov"}),
        ("which is no outer step", {"outer": "topk(density=0.1)"}),
        ("unknown name 'adam'", {"outer": "adam(lr=1)"}),
    ],
)
def test_refusals(words: str, options: dict[str, object]) -> None:
    refuse(words, **options)


def test_refusals_of_models_and_optimizers() -> None:
    net = nn.Linear(3, 2)
    other = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)
    refuse("local takes a module", [1], other, error=TypeError)
    refuse("local takes a torch optimizer or a list of them, got 'adam'", net, "adam", error=TypeError)
    refuse("local takes a torch optimizer or a list of them, got []", net, [], error=TypeError)
    refuse("a seed is a whole number, got 1.5", seed=1.5, error=TypeError)
    refuse("the optimizer trains no parameter of this model", net, other)
    refuse("local takes an exchange or its spec", exchange=3, error=TypeError)
    refuse("local takes an outer step", outer=3, error=TypeError)
    refuse("call torch.distributed.init_process_group first", error=RuntimeError)
    net.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    refuse("buffer 'phase' is complex", net, torch.optim.SGD(net.parameters(), lr=0.1))


def test_rounds_grow_from_start_to_steps() -> None:
    every = gw.Every(10, warmup_steps=100, start=2)
    assert [every(step) for step in (0, 50, 99, 100, 1000)] == [2, 6, 9, 10, 10]
    assert gw.Every(7)(0) == 7
    for options, words in (
        ({"steps": 0}, "steps of a round must be a whole number, at least 1, got 0"),
        ({"steps": 4, "start": 5}, "got start=5 above steps=4"),
        ({"steps": 4, "warmup_steps": -1}, "at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=words):
            gw.Every(**options)
