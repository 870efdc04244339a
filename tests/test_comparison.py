"""A run of the small GPT: its job, its learning rate, how the time of its steps is split, and local
steps as a method.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

import gradwire as gw
from gradwire.lab.comparison.job import TrainingJob, rate_at
from gradwire.lab.comparison.record import Split
from gradwire.lab.comparison.timed import StepTimes, rounds
from gradwire.lab.ways import LocalWay, check_way, local_steps


def test_local_steps_are_a_way_by_name() -> None:
    assert local_steps("local") == LocalWay()
    dense = local_steps("local(every=30, exchange='mean', outer='sgd(lr=1.0)', delay=2)")
    assert dense == LocalWay(30, "mean", "sgd(lr=1.0)", 2)
    for other in ("dense", "mean", "localtopk(density=0.1)"):
        assert local_steps(other) is None
    check_way("local(every=4)")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local(every=0)", "every must be a whole number of steps, at least 1, got 0"),
        ("local(every=10, delay=10)", "delay must be a whole number of steps from 0 to 9, got 10"),
        ("local(exchange='tokp(0.1)')", "did you mean 'topk'"),
        ("local(outer='mean')", "is no outer step"),
        ("local(10)", "it should look like local"),
        ("local(every=2 * 5)", "it should look like local"),
        ("local(often=3)", "it should look like local"),
        ("local(every=10", "it should look like local"),
        ("local(every=10).x", "it should look like local"),
    ],
)
def test_bad_local_steps_are_refused_in_a_sentence(name: str, message: str) -> None:
    with pytest.raises(gw.SpecError, match=message.replace("(", r"\(")):
        TrainingJob(name)


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    job = TrainingJob("dense", learning_rate=1.0, warmup=4, floor=0.1)
    assert [rate_at(job, step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate_at(job, 100, 0.5) == pytest.approx(0.55)
    assert rate_at(job, 100, 1.0) == rate_at(job, 100, 1.7) == pytest.approx(0.1)
    falling = [rate_at(job, 100, share / 10) for share in range(11)]
    assert all(after < before for before, after in pairwise(falling))
    assert rate_at(TrainingJob("dense", learning_rate=1.0, floor=1.0), 100, 0.9) == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "adam"}, "the optimizer must be adamw or sgd, got 'adam'"),
        ({"learning_rate": 0.0}, "a learning rate is above 0"),
        ({"floor": 1.5}, "its floor in"),
    ],
)
def test_a_job_is_refused_early(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingJob("dense", **fields)


def test_a_step_of_local_steps_is_the_average_of_its_round() -> None:
    assert rounds([1.0, 3.0, 1.0, 5.0, 9.0], 2) == [2.0, 3.0]
    assert rounds([1.0, 3.0], 4) == [2.0]
    timed = StepTimes(2)
    for step, exchanging in ((1.0, 0.0), (2.0, 1.0), (1.0, 0.0), (2.0, 1.0)):
        timed.note(step, 0.25, exchanging)
    assert timed.quantiles()[1] == 1.5
    assert timed.split(0.7, selecting=0.5) == Split(1.0, 0.125, 0.375)  # a quarter of the exchanges was no network's


def test_what_is_neither_compute_nor_selection_is_wire() -> None:
    timed = StepTimes(1)
    for step in (1.0, 2.0, 3.0):
        timed.note(step, 0.5, 0.0)
    assert timed.split(1.0, selecting=0.75) == Split(1.5, 0.25, 0.25)
    assert timed.split(9.0, selecting=0.75) == Split(2.0, 0.0, 0.0)
