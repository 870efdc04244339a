"""The batched transport gives what lockstep gives: exactly, or in distribution if workers draw numbers."""

from __future__ import annotations

import pytest
import torch
import zoo
from test_memory import xs

import gradwire as gw
from gradwire.testing import transports
from gradwire.testing.runs import Setup, runs_batched
from gradwire.testing.trial import Law

LOCKSTEP = ["deft", "exdyna", "micro", "oktopk", "sidco"]
BATCHED = [spec for spec in zoo.SPECS if not any(part in spec for part in LOCKSTEP)]
DRAWN = [spec for spec in BATCHED if any(word in spec for word in zoo.RANDOM) and "shared" not in spec]
SETUP = Setup((1, 3), zoo.LAYOUT, seed=2)


def law(spec: str) -> Law:
    return Law("a batch is n workers", spec)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("spec", BATCHED)
def test_the_law_and_the_bytes(spec: str, n: int) -> None:
    # Workers of a batch toss other coins, and the lengths of messages that depend on them differ; a union depends on
    # what is rounded up.
    certain = "bernoulli" not in spec and spec != "ef(uniontopk(density=0.05), dtype='bfloat16')"
    transports.batch_obeys_the_law(gw.parse(spec), law(spec), SETUP, n, bytes_are_certain=certain)


@pytest.mark.parametrize("spec", [spec for spec in BATCHED if spec not in DRAWN])
def test_what_draws_nothing_of_its_own_is_equal(spec: str) -> None:
    transports.batch_equals_lockstep(gw.parse(spec), law(spec), SETUP, 3)


@pytest.mark.parametrize("spec", DRAWN)
def test_what_draws_is_equal_in_distribution(spec: str) -> None:
    transports.batch_equals_in_distribution(gw.parse(spec), law(spec), SETUP)


@pytest.mark.parametrize("spec", zoo.SPECS)
def test_the_law_finds_out_what_runs_batched_and_what_draws(spec: str) -> None:
    """So a stranger's part need not declare it."""
    exchange = gw.parse(spec)
    assert runs_batched(exchange, 3, zoo.LAYOUT) == (spec in BATCHED)
    if spec in BATCHED:
        assert transports.draws_of_its_own(exchange, SETUP, 3) == (spec in DRAWN)


@pytest.mark.parametrize("part", LOCKSTEP)
def test_who_runs_in_lockstep_says_so(part: str) -> None:
    with pytest.raises(ValueError, match=f"{part}'s .* runs in lockstep, not batched"):
        gw.Simulator(f"ef({part}(density=0.1))", zoo.LAYOUT, 2, batched=True).step(xs(2, 0))


def test_an_ask_without_a_row_for_every_worker_is_refused() -> None:
    async def talk() -> torch.Tensor:
        return await gw.AllReduce(torch.ones(4))

    with pytest.raises(ValueError, match=r"one row for each of 3 workers, got AllReduce\(float32\[4\]\)"):
        gw.batched(talk(), 3)
