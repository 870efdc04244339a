"""Replicated state (facts) through checkpoints of other shapes, other runs and other numbers of workers."""

from __future__ import annotations

import pytest
import torch
import zoo
from story import play
from test_memory import xs
from torch import Tensor

import gradwire as gw
from gradwire import checkpoint

KNOWING = [
    "micro(density=0.05)",
    "micro(density=0.05, start='formula')",
    "ef(exdyna(density=0.05))",
    "ef(sidco(density=0.05))",
    "ef(oktopk(density=0.05, recompute_every=50))",
]

ROTTEN = {
    "longer": lambda fact: torch.cat([fact.flatten(), fact.flatten(), torch.ones(3)]),
    "empty": lambda fact: fact.flatten()[:0],
    "a number": lambda fact: fact.sum(),
    "more axes": lambda fact: fact[None, None],
    "negative": lambda fact: -fact.abs() - 1,
    "halves": lambda fact: fact + 0.5,
    "huge": lambda fact: torch.full_like(fact, 3.4e38),
    "tiny": lambda fact: torch.full_like(fact, 1e-45),
    "backwards": lambda fact: fact.flip(-1),
    "a negative one": lambda fact: torch.cat([fact.flatten()[:-1], torch.full((1,), -7.0)]).view(fact.shape),
}


def checkpoints(spec: str, ranks: int, seed: int = 0) -> list[dict]:
    """Return what the ranks of a run save after three steps."""
    sim = gw.Simulator(spec, zoo.LAYOUT, ranks)
    for step in range(3):
        sim.step(xs(ranks, step, torch.float32) * (1 + seed))
    parts = [checkpoint.by_name(state, zoo.LAYOUT) for state in sim.state]
    return [checkpoint.pack(memory, spec, 0, 3, rank, ranks) for rank, memory in enumerate(parts)]


def facts(saved: dict) -> dict[str, Tensor]:
    return {path: value for path, value in saved["memory"][zoo.LAYOUT.names[0]].items() if path.startswith("unit.")}


@pytest.mark.parametrize("spec", KNOWING)
@pytest.mark.parametrize("how", ROTTEN)
def test_a_rotten_fact_harms_nobody(spec: str, how: str) -> None:
    """Whatever a checkpoint tells all ranks, they continue by the law and leave valid facts."""
    ranks = 3
    saved = checkpoints(spec, ranks)[0]
    sim = gw.Simulator(spec, zoo.LAYOUT, ranks)
    sim.start(torch.zeros(ranks, zoo.LAYOUT.d))
    shapes = {name: value.shape for *_, name, value in checkpoint.flatten(sim.state[0])}
    for path, fact in facts(saved).items():
        saved["memory"][zoo.LAYOUT.names[0]][path] = ROTTEN[how](fact)
    for state in sim.state:
        state.update(checkpoint.read(state, zoo.LAYOUT, saved["memory"]))
    for step in range(4):
        told = sim.step(xs(ranks, step, torch.float32))
        torch.testing.assert_close(told.own.mean(0), told.mean, rtol=1e-5, atol=1e-6)
        assert told.mean.count_nonzero() > 0
    for *_, name, value in checkpoint.flatten(sim.state[0]):
        assert value.isfinite().all()
        assert value.shape == shapes[name] or name.endswith("plan")


def test_a_threshold_never_leaves_its_dtype() -> None:
    """All magnitudes reach the threshold, which is slightly too many, so it rises from the largest finite number."""
    largest = torch.finfo(torch.float32).max
    sim = gw.Simulator("micro(density=0.9)", gw.Layout(["w"], [(40,)]), 1)
    for _ in range(3):
        sim.step(torch.full((1, 40), largest))
        assert float(sim.state[0]["threshold"]) == pytest.approx(largest)


@pytest.mark.parametrize("spec", KNOWING)
def test_merging_keeps_facts_as_they_are(spec: str) -> None:
    saved = checkpoints(spec, 3)
    merged = gw.merge(saved)
    assert facts(merged).keys() == facts(saved[0]).keys() != set()
    for path, fact in facts(merged).items():
        assert torch.equal(fact, facts(saved[0])[path])


@pytest.mark.parametrize("change", [lambda fact: fact * 2 + 1, lambda fact: torch.cat([fact, fact])])
def test_ranks_of_different_runs_do_not_merge(change: object) -> None:
    saved = checkpoints("micro(density=0.05)", 2)
    parts = saved[1]["memory"][zoo.LAYOUT.names[0]]
    parts["unit.threshold"], saved[1]["checksum"] = change(parts["unit.threshold"]), None
    with pytest.raises(ValueError, match="of different runs: the replicated state of rank 1 is not rank 0"):
        gw.merge(saved)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], r"one checkpoint from every rank of a run, got ranks \[\]"),
        ([{}], r"merge takes checkpoints of gradwire hooks, got \{\}"),
        (["all of them"], "merge takes checkpoints of gradwire hooks, got 'all of them'"),
        ([{"rank": "0"}, {}], "the checkpoint's rank must be a whole number, got '0'"),
        ([{"world_size": "2"}, {}], "the checkpoint's world_size must be a whole number, got '2'"),
        ([{"world_size": 3}, {}], r"got ranks \[0, 1\] of \[3, 2\]"),
        ([{"rank": True}, {}], "the checkpoint's rank must be a whole number, got True"),
        ([{}, {"local": {}}], "not a checkpoint of a gradwire hook"),
        ([{"memory": {}, "checksum": None}, {}], "of another model: only"),
        ([{"memory": None}, {}], "memory must be a dictionary by parameter, got NoneType"),
        ([{"step": "1"}, {}], "step must be a whole number, got '1'"),
    ],
)
def test_what_is_no_checkpoint_does_not_merge(given: list, words: str) -> None:
    saved = checkpoints("ef(topk(density=0.1))", 2)
    whole = [{**one, **other} for one, other in zip(saved, given, strict=True)] if len(given) == 2 else given
    with pytest.raises(ValueError, match=words):
        gw.merge(whole)


def test_a_merge_of_what_requires_a_gradient_does_not() -> None:
    saved = checkpoints("ef(micro(density=0.1))", 2)
    wanted = gw.merge(saved)
    for parts in saved[1]["memory"].values():
        for part in parts.values():
            part.requires_grad_()
    found = gw.merge(saved)
    for name, parts in found["memory"].items():
        for path, part in parts.items():
            assert not part.requires_grad
            assert torch.equal(part, wanted["memory"][name][path])


def test_a_flipped_bit_is_found() -> None:
    saved = checkpoints("ef(topk(density=0.1))", 2)
    values = saved[1]["memory"]["one"]["error"]
    values.view(-1).view(torch.uint8)[0] ^= 1
    for read in (lambda: checkpoint.check(saved[1], saved[1]), lambda: gw.merge(saved)):
        with pytest.raises(ValueError, match="the checkpoint's memory is damaged: its checksum is"):
            read()
    checkpoint.check({name: value for name, value in saved[1].items() if name != "checksum"}, saved[1])  # an old one


def test_a_checkpoint_without_the_keys_that_say_nothing_still_loads() -> None:
    saved = checkpoints("ef(topk(density=0.1))", 1)[0]
    checkpoint.check({name: value for name, value in saved.items() if name not in checkpoint.ALONE}, saved)


def test_a_value_must_be_finite_in_the_memorys_dtype() -> None:
    saved = checkpoints("ef(topk(density=0.1))", 1)[0]
    wide = {name: {path: part.double() for path, part in parts.items()} for name, parts in saved["memory"].items()}
    checkpoint.check({**saved, "memory": wide}, saved)
    wide["one"]["error"].fill_(1e300)
    with pytest.raises(ValueError, match="error of 'one' holds a value that is not finite"):
        checkpoint.check({**saved, "memory": wide}, saved)


@pytest.mark.story
def test_ranks_of_different_runs_are_refused_on_all() -> None:
    """Step and seed agree, but one rank's checkpoint has another threshold, so its asks would not fit the others'."""
    for line in play("facts_of_two_runs", ranks=2):
        assert "another step, seed or run" in line["result"]
