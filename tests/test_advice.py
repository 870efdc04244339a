"""Advice: what overlaps, what a link costs, what a method asks for; and `auto`, which acts on it."""

from __future__ import annotations

import importlib
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from story import play, watch
from torch.nn.parallel import DistributedDataParallel

import gradwire as gw
from gradwire.advice import (
    Cost,
    Job,
    Link,
    LocalRound,
    Method,
    Pace,
    Part,
    UnitWork,
    buckets,
    crossover,
    fit,
    judge,
    local_rounds,
    predict,
)
from gradwire.advice import step_seconds as step
from gradwire.advice.doors import beside, own_part, own_traffic, through_module, through_shards
from gradwire.advice.losses import Known, known
from gradwire.advice.losses import table as losses
from gradwire.advice.rounds import EXCHANGE
from gradwire.advice.verdict import MARGIN
from gradwire.advice.work import bucket_buffers, rehearse_units, shards
from gradwire.ask import AllReduce, Axis
from gradwire.cli.advise import door_lines, local_lines, loss_lines, rate_of, table
from gradwire.lab import records
from gradwire.lab.bench.advised import Advised, Question
from gradwire.lab.bench.advising import ask
from gradwire.lab.failed import Failed
from gradwire.memory import Guard
from gradwire.transport.rehearsal import Asked, Course, rehearse

SECONDS = st.floats(0, 10)
PARTS = st.lists(st.builds(Part, SECONDS, SECONDS), max_size=4).map(tuple)
SHARES = st.sampled_from([0.25, 0.5, 1.0])


def jobs(compute: float) -> st.SearchStrategy[list[Job]]:
    return st.lists(st.builds(lambda at, parts: Job(at * compute, parts), st.floats(0, 1), PARTS), max_size=4)


# ---- the timeline


@given(SECONDS, SHARES)
def test_without_a_network_a_step_is_its_compute(compute: float, share: float) -> None:
    assert step(compute, [], share) == compute
    assert step(compute, [Job(compute / 2, (Part(0.0, 0.0),))], share, tail=1.0) == pytest.approx(compute + 1.0)


@given(st.data(), SECONDS, SHARES)
def test_a_step_lies_between_what_each_lane_needs_and_one_after_the_other(
    data: st.DataObject, compute: float, share: float
) -> None:
    work = data.draw(jobs(compute))
    cpu, wait = (sum(getattr(part, kind) for job in work for part in job.parts) for kind in ("cpu", "wait"))
    least = max(compute + cpu if share <= 0.5 else compute, cpu + wait)
    # A share below a half leaves a core idle for a part of the time: then both lanes take longer than their sum.
    most = compute + wait + cpu / min(1.0, 2 * share) + (compute / share if share < 0.5 else 0.0)
    assert least - 1e-6 <= step(compute, work, share) <= most + 1e-6


@given(st.data(), SECONDS)
def test_more_work_and_fewer_cores_never_make_a_step_shorter(data: st.DataObject, compute: float) -> None:
    work = sorted(data.draw(jobs(compute)), key=lambda job: job.ready)
    more = [Job(job.ready, (*job.parts, Part(0.0, 1.0))) for job in work]
    assert step(compute, work, 0.5) <= step(compute, more, 0.5) + 1e-9
    assert step(compute, work, 1.0) <= step(compute, work, 0.5) + 1e-9


def test_steps_by_hand() -> None:
    wire = Job(2.0, (Part(0.0, 3.0),))
    assert step(10.0, [wire]) == 10.0  # hidden under backward
    assert step(4.0, [wire]) == 5.0  # 2 until it is ready, 3 on the wire
    assert step(4.0, [wire, wire], tail=0.5) == 8.5  # one after the other
    select = Job(2.0, (Part(1.0, 0.0),))
    assert step(4.0, [select], share=1.0) == 4.0
    assert step(4.0, [select], share=0.5) == 5.0  # what one lane takes the other lacks
    assert step(4.0, [Job(4.0, (Part(1.0, 2.0),))], share=0.5) == 7.0  # nothing beside it: full speed
    assert step(4.0, [Job(1.0, (Part(0.0, math.inf),))]) == math.inf
    with pytest.raises(ValueError, match="ready after 5 s of computing, in a step of 4 s"):
        step(4.0, [Job(5.0, ())])
    with pytest.raises(ValueError, match="share must lie in"):
        step(4.0, [], 0.0)


# ---- the link


@given(st.floats(1e-5, 1e-1), st.floats(1e-10, 1e-4))
def test_a_fit_finds_the_costs_that_made_the_figures(alpha: float, per_byte: float) -> None:
    found = fit([(size, alpha + per_byte * size) for size in (4, 1e4, 1e6)])
    assert found[0] + found[1] * 1e5 == pytest.approx(alpha + per_byte * 1e5, rel=1e-4)


def test_a_fit_has_no_negative_costs() -> None:
    assert fit([(4, 2.0), (8, 1.0)])[1] == 0.0
    assert fit([(10, 1.0), (20, 3.0)])[0] == 0.0
    assert fit([(10, 1.0)]) == (1.0, 0.0)


def link(per_byte: float, alpha: float = 1e-3, size: int = 2) -> Link:
    costs = {kind: Cost(alpha, per_byte) for kind in ("AllReduce", "AllGather", "Broadcast", "AllToAll")}
    return Link(size, 0.5, costs)


def test_a_core_is_never_busy_for_longer_than_the_call() -> None:
    assert Cost(1.0, 0.0, 3.0).part(5.0) == Part(1.0, 0.0)
    assert Cost(1.0, 1.0, 0.5).part(1.0) == Part(0.5, 1.5)
    assert link(1.0).part("AllReduce", 0.0) == Part(0.0, 0.0)


# ---- rehearsals


@pytest.mark.parametrize("spec", zoo.TRAINED)
@pytest.mark.parametrize("n", [1, 3])
def test_a_rehearsal_asks_for_what_a_run_asks_for(spec: str, n: int) -> None:
    """With every worker rehearsed, kinds, calls and bytes on the busiest link are those of lockstep's ledger."""
    x = torch.randn(zoo.LAYOUT.d, generator=torch.Generator().manual_seed(1))
    guarded = Guard(gw.parse(spec))
    ledger = gw.Ledger(n)
    turns = [gw.Turn(rank, n, 0, zoo.LAYOUT, params=lambda: torch.zeros(zoo.LAYOUT.d), lr=0.1) for rank in range(n)]

    def talks() -> list:
        return [guarded(x.clone(), guarded.init(zoo.LAYOUT), turn) for turn in turns]

    sent, course = rehearse(talks(), n)
    run = gw.lockstep(talks(), ledger)
    assert torch.equal(sent[0].mean.dense(), run[0].mean.dense())
    for kind, exchanged in ledger.entries.items():
        asked = [ask for ask in course.asks if ask.kind == kind]
        assert len(asked) * n == exchanged.calls
        if kind != "Broadcast":  # of which the root sends most
            assert sum(ask.traffic for ask in asked) == pytest.approx(exchanged.traffic / n)


ALONE = ("cltk", "deft", "exdyna", "globaltopk", "islands", "micro", "oktopk")
"""What hears from others where they have searched: there one worker cannot stand for all."""


@pytest.mark.parametrize("spec", [spec for spec in zoo.TRAINED if not any(name in spec for name in ALONE)])
def test_one_worker_stands_for_many(spec: str) -> None:
    x = torch.randn(zoo.LAYOUT.d, generator=torch.Generator().manual_seed(1))
    guarded = Guard(gw.parse(spec))
    n = 4

    def talks(workers: int) -> list:
        turns = [gw.Turn(r, n, 0, zoo.LAYOUT, params=lambda: torch.zeros(zoo.LAYOUT.d)) for r in range(workers)]
        return [guarded(x.clone(), guarded.init(zoo.LAYOUT), turn) for turn in turns]

    (_, alone), (_, all_of_them) = rehearse(talks(1), n), rehearse(talks(n), n)
    assert [ask.kind for ask in alone.asks] == [ask.kind for ask in all_of_them.asks]
    assert alone.traffic == pytest.approx(all_of_them.traffic, rel=0.3)  # of what is drawn at random, another draw


def test_gradients_are_rehearsed_where_ddp_would_have_them() -> None:
    """Gradients lie in one flat vector a bucket, so a sparse mean is written once a bucket, not once a parameter."""
    params = [torch.zeros(3, 4), torch.zeros(5), torch.zeros(2, 2)]
    buffers = bucket_buffers([params[:2], params[2:]])
    assert [buffers[id(param)].shape for param in params] == [param.shape for param in params]
    assert len({buffer.untyped_storage().data_ptr() for buffer in buffers.values()}) == 2
    assert buffers[id(params[1])].storage_offset() == 12


def test_a_rehearsal_takes_one_or_all() -> None:
    with pytest.raises(ValueError, match="one worker or all 3, got 0"):
        rehearse([], 3)


# ---- the pace, and the verdict


def test_ddps_buckets() -> None:
    kib = 1024
    sizes = [600 * kib, 600 * kib, 3000 * kib, 10 * kib]
    assert buckets(sizes, [3, 2, 1, 0], 25 * 2**20) == [[3, 2], [1, 0]]
    assert buckets(sizes, [0, 1, 2, 3], 2**20) == [[0, 1], [2], [3]]
    assert buckets(sizes, [0, 1, 2, 3], 1) == [[0], [1], [2], [3]]


def unit_work(nbytes: float, cpu: float = 0.0, parameter: int = 0) -> UnitWork:
    return UnitWork((parameter,), (Course((Asked("AllReduce", nbytes, cpu),), 0.0),))


PACE = Pace(compute=0.1, tail=0.0, ready=(0.1, 0.05), period=0.2)


def test_predictions_by_hand() -> None:
    assert predict(PACE, [], link(1e-6)) == pytest.approx(0.1)
    assert predict(PACE, [unit_work(1e6)], link(1e-6)) == pytest.approx(0.1 + 0.001 + 1.0)
    assert predict(PACE, [unit_work(1e4, parameter=1)], link(1e-6)) == pytest.approx(0.1)  # under backward
    assert predict(PACE, [unit_work(1e4, cpu=0.02)], link(1e-6)) == pytest.approx(0.1 + 0.02 + 0.011)


@given(st.floats(0.001, 0.5), st.floats(2e4, 1e6))
def test_at_the_crossover_steps_are_equal(cpu: float, nbytes: float) -> None:
    dense, method = [unit_work(1e7)], [unit_work(nbytes, cpu=cpu)]

    def at(units: list[UnitWork], beta: float) -> float:
        return predict(PACE, units, link(1e-6).at(beta))

    beta = crossover(lambda beta: at(method, beta), lambda beta: at(dense, beta))
    assert at(method, beta) == pytest.approx(at(dense, beta), rel=1e-6)
    assert beta == pytest.approx((1e7 - nbytes) / cpu, rel=1e-4)


def test_crossovers_that_are_none() -> None:
    assert crossover(lambda beta: 2.0, lambda beta: 1.0) == 0.0
    assert crossover(lambda beta: 1.0, lambda beta: 2.0) == math.inf


@pytest.mark.parametrize(("seconds", "choice"), [(0.5, "natural"), (0.84, "natural"), (0.86, "dense"), (2.0, "dense")])
def test_a_method_must_clear_the_margin(seconds: float, choice: str) -> None:
    verdict = judge([Method("dense", 1.0), Method("natural", seconds), Method("permk", math.inf, refusal="no")])
    assert verdict.choice == choice
    assert verdict.methods[-1].name == "permk"
    assert verdict.sentence.startswith("natural: " if choice == "natural" else "do not compress: ")


def test_nothing_to_compare_with() -> None:
    assert "no other method could be predicted" in judge([Method("dense", 1.0)]).sentence


# ---- local steps


@pytest.mark.parametrize(("wire", "every"), [(0.0, 1), (0.05, 1), (0.06, 2), (0.5, 10), (5.0, 100), (1e6, 1000)])
def test_a_round_is_as_short_as_the_wire_lets_it_be(wire: float, every: int) -> None:
    """wire / (H + wire) is below 5 % if H is above 19 times the wire, with steps of one second."""
    one = LocalRound("mean", 1.0, 0.0, wire, 8.0)
    assert one.every == every
    assert one.seconds(every) == 1.0 + wire / every
    assert (one.wire_fraction(every) < 0.05) == (wire < 1e6)


def test_computing_is_no_wire() -> None:
    assert LocalRound("mean", 1.0, 100.0, 5.0, 8.0).every == 1


@pytest.mark.parametrize("n", [2, 8])
def test_differences_are_rehearsed_on_copies(n: int) -> None:
    """A dense exchange has a ring's traffic, the default a few bits a kept value, and the model is unchanged."""
    model = torch.nn.Linear(64, 64)
    before = [param.detach().clone() for param in model.parameters()]
    gradients = [torch.randn_like(param) for param in model.parameters()]
    link = Link(n, 1.0, {kind: Cost(0.001, 1e-6) for kind in ("AllReduce", "AllGather", "Broadcast", "AllToAll")})
    named = list(model.named_parameters())
    default, dense, odd = local_rounds(named, gradients, 1.0, link, 2**20, (EXCHANGE, "mean", "permk(workers=3)"))
    words = 32 * (n - 1)
    assert dense.traffic == pytest.approx(2 * (n - 1) / n * 4 * 4160 + words)
    assert dense.wire == pytest.approx(2 * 0.001 + 1e-6 * dense.traffic)
    assert (n - 1) * 65 < default.traffic - words < (n - 1) * 65 * 4  # 65 values of 4160, at most four bytes each
    assert "3" in odd.refusal
    for param, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(param, value)


# ---- doors and islands


def linked(size: int, seconds: float, per_byte: float = 0.0) -> Link:
    kinds = "AllReduce", "AllGather", "Broadcast", "AllToAll"
    return Link(size, 1.0, {kind: Cost(seconds, per_byte) for kind in kinds})


def wrapped() -> tuple[DistributedDataParallel, list[torch.Tensor], Pace]:
    """Return the parts of DDP that a door reads: its module, what it ignores, gradients by DDP's numbers, and their
    pace.
    """
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
    gradients = [torch.full_like(param, number) for number, param in enumerate(model.parameters())]
    ddp = cast(DistributedDataParallel, SimpleNamespace(module=model, parameters_to_ignore=set()))
    return ddp, gradients, Pace(compute=1.0, tail=0.1, ready=(1.0, 0.9, 0.5, 0.4), period=1.5)


def test_a_bare_modules_units_leave_in_order() -> None:
    """Each unit waits for its own parameters and those of the units before it, not for a bucket."""
    ddp, gradients, pace = wrapped()
    exchanged = through_module(ddp, gradients, 2)
    assert [name for name, _ in exchanged.named] == ["1.bias", "1.weight", "0.bias", "0.weight"]
    assert [int(gradient.flatten()[0]) for gradient in exchanged.gradients] == [3, 2, 1, 0]
    found = rehearse_units(exchanged, gw.parse("ef(topk(density=0.2))"), 4.0 * 15)
    assert [one.parameters for one in found] == [(3,), (3, 2), (3, 2, 1), (3, 2, 1, 0)]
    assert [pace.when(one.parameters) for one in found] == [0.4, 0.5, 0.9, 1.0]
    assert [one.traffic > 0 for one in found] == [True] * 4


@pytest.mark.parametrize("island", [2, 4])
def test_shards_are_cut_as_fsdp2_cuts_them(island: int) -> None:
    """All shards together are whole, also uneven and empty ones; a rank exchanges its own with as many workers as
    islands.
    """
    ddp, gradients, _ = wrapped()
    whole = through_module(ddp, gradients, 8)
    parts = [through_shards(whole, rank, island) for rank in range(island, 2 * island)]
    assert {part.size for part in parts} == {8 // island}
    for at, (_, param) in enumerate(whole.named):
        shards_of = [part.named[at][1] for part in parts]
        assert torch.equal(torch.cat(shards_of), param)
        assert [len(each) for each in shards_of] == [
            len(each) for each in (*torch.chunk(param, island), *[param[:0]] * island)
        ][:island]
    first = parts[0]
    assert sum(one.traffic for one in shards(first, 1e9)) == sum(
        AllReduce(tensor).busiest(first.size) for _, tensor in first.named
    )
    assert len(rehearse_units(first, gw.parse("ef(topk(density=0.5))"), 1e9)) == 1


def test_what_fsdp2_does_by_itself_is_hidden_as_far_as_it_fits() -> None:
    """Two gathers and half an all-reduce, of one byte on each of four ranks, run beside a second of computing."""
    assert own_traffic(4e6, 4) == 9e6
    own = own_part(4e6, linked(4, 0.01, 1e-8), 1e9)
    assert own.cpu + own.wait == pytest.approx(2 * (0.01 + 0.03) + 0.5 * (0.01 + 0.06))
    pace = wrapped()[2]
    assert beside(pace, own, 1.0) == pace
    slow = beside(pace, Part(0.5, 1.5), 1.0)
    assert (slow.compute, slow.tail, slow.period) == (2.0, 0.1, 2.5)
    assert slow.ready == (2.0, 1.8, 1.0, 0.8)
    assert beside(pace, Part(0.5, 0.0), 0.5).compute == 1.5  # on a core that both want


def test_groups_along_islands_have_their_own_link() -> None:
    link = replace(linked(8, 3.0, 1.0), inside=linked(4, 1.0), between=linked(2, 2.0, 1.0))
    axes = [(None, 3.0), (Axis(4), 1.0), (Axis(2), 1.0), (Axis(2, 2), 1.0), (Axis(2, 4), 2.0), (Axis(8), 3.0)]
    for axis, alpha in axes:
        assert link.part("AllReduce", 1e-9, axis).wait == pytest.approx(alpha)
    fast = link.at(1e3)
    assert fast.part("AllReduce", 1e3, Axis(4)).wait == pytest.approx(1.0)
    assert fast.part("AllReduce", 1e3, Axis(2, 4)).wait == pytest.approx(3.0)
    assert fast.part("AllReduce", 1e3).wait == pytest.approx(4.0)
    one = UnitWork((0,), (Course((Asked("AllReduce", 1e-9, 0.0, Axis(4)), Asked("AllReduce", 1e-9, 0.0)), 0.0),))
    assert predict(PACE, [one], link) == pytest.approx(0.1 + 1.0 + 3.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"door": "fsdp"}, "a door is one of ddp, module, sharded, got 'fsdp'"),
        ({"door": "sharded"}, "the sharded door needs islands of at least 2 ranks"),
        ({"inside": "1gbit"}, "a rate of 1gbit inside needs islands"),
        ({"island": 0}, "at least 1, got 0"),
        ({"island": 2, "inside": "fast"}, "got 'fast'"),
        ({"door": "module", "check": True}, "measures through DDP .* excludes the module door"),
        ({"island": 2, "inside": "1gbit", "check": True}, "excludes links of 1gbit inside islands"),
    ],
)
def test_a_door_that_cannot_be_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Question("mlp", **arguments)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_islands_must_be_filled_and_several(ranks: int) -> None:
    with pytest.raises(ValueError, match=f"{ranks} ranks do not fill two or more islands of 2"):
        ask(Question("mlp", island=2), ranks, None)


@pytest.mark.story
def test_advice_on_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two islands of two, half of the values travel between the islands, and FSDP2's own traffic stays inside."""
    monkeypatch.chdir(Path(__file__).parent)
    question = Question("test_advice:tiny", ("ef(topk(density=0.5))",), door="sharded", island=2, inside="10gbit")
    advised = ask(question, 4, None)
    assert [method.name for method in advised.verdict.methods if method.refusal] == []
    assert {method.name for method in advised.verdict.methods} == {"dense", "ef(topk(density=0.5))"}
    assert advised.verdict.of("dense").traffic == 4 * 9  # a ring of two sends half of what is brought, twice
    assert advised.own_traffic == 1.5 * 4 * 18
    assert advised.own_seconds > 0
    assert "108" in f"{advised.own_traffic:g}"
    assert "native HSDP" in " ".join(door_lines(advised))


def test_the_two_lines_are_named() -> None:
    default = LocalRound(EXCHANGE, 0.4, 0.01, 0.1, 2e5)
    text = "\n".join(local_lines(default, 3.9))
    assert "gradwire.local(model, optimizer, every=10)" in text
    assert "every 10 steps, 2.4 % of a round; 411 ms a step against 3900 ms dense" in text
    assert "docs/local.md" in text
    assert 'every=10, group=mesh["replicate"])    # model is sharded' in local_lines(default, 3.9, "sharded")[2]
    assert 'every=10, exchange="mean")' in local_lines(LocalRound("mean", 0.4, 0.01, 0.1, 2e5), 3.9)[2]


def test_the_answer_is_strict_json() -> None:
    verdict = judge([Method("dense", 1.0, 8.0), Method("natural", 0.5, 2.0, math.inf)])
    rounds = LocalRound("mean", 0.4, 0.0, 10.0, 8.0), LocalRound(EXCHANGE, 0.4, 0.0, 0.1, 2.0)
    advised = Advised(
        "mlp", "loopback", 2, 0.4, {"AllReduce": 1.0}, {"AllReduce": None}, verdict, {"dense": 2.0}, rounds
    )
    read = json.loads(advised.to_json(), parse_constant=pytest.fail)
    assert read["sentence"] == verdict.sentence
    assert read["verdict"]["choice"] == "natural"
    assert [one["every"] for one in read["rounds"]] == [1000, 10]
    assert advised.local == rounds[1]  # the shorter round
    assert advised.error(verdict.of("dense")) == -0.5
    assert advised.error(verdict.of("natural")) is None


def test_the_time_to_a_loss_is_known_where_losses_are() -> None:
    """Steps come from the committed curves, seconds from the predictions; methods without a curve are not ranked."""
    sparse, unknown = "ef(topk(density=0.01))", "ef(topk(density=0.02))"
    verdict = judge([Method("dense", 1.0), Method(sparse, 0.25), Method(unknown, 0.2)])
    rounds = LocalRound(EXCHANGE, 0.125, 0.05, 0.2, 2.0), LocalRound("mean", 0.125, 0.0, 1.0, 8.0)
    advised = Advised("mlp", "loopback", 2, 0.125, {}, {}, verdict, {}, rounds)
    ways = {way.way: way for way in advised.to_loss("adamw")}
    assert ways.keys() == {"dense", sparse, "local(every=4)", "local(every=10)"}
    assert ways["dense"].to_loss == 1.0
    assert math.isinf(ways[sparse].to_loss)  # under AdamW it never came to dense's loss
    ten = ways["local(every=10)"]
    assert ten.ratio == statistics.median(row.ratio for row in ten.rows)
    assert ten.to_loss == pytest.approx(ten.ratio * 0.15)
    assert next(iter(ways)) == min(ways.values(), key=lambda way: way.to_loss).way
    written = json.loads(advised.to_json(), parse_constant=pytest.fail)["to_loss"]
    assert [row["way"] for row in written["adamw"]] == [way.way for way in advised.to_loss("adamw")]
    assert next(row["seconds"] for row in written["adamw"]) == next(iter(ways.values())).to_loss
    assert next(row for row in written["adamw"] if row["way"] == sparse)["seconds"] == "Infinity"
    assert "GPT" in next(row for row in written["adamw"] if row["way"] == sparse)["measured_on"]
    lines = loss_lines(advised, "adamw")
    assert any("does not come to dense's loss" in line and sparse in line for line in lines)
    assert not any(unknown in line for line in lines)
    with pytest.raises(ValueError, match="losses are known under adamw and sgd, got 'adam'"):
        advised.to_loss("adam")
    assert [row.steps for row in known("ef(topk(density=0.010, values='natural'))", "sgd")] == [249.6]


def test_the_table_of_losses_is_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """losses.json is what benchmarks/loss_table.py makes of the committed results."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    made = importlib.import_module("loss_table")
    rows = [*made.race(), *made.race_sgd(), *made.adam_sparse(), *made.local_lab()]
    assert rows == json.loads(made.TABLE.read_text())
    assert [Known(**row) for row in rows] == list(losses())
    assert made.reached([(0, 4.0), (10, 2.0), (20, 1.0)], 1.5) == 15
    assert made.reached([(0, 4.0), (10, 2.0)], 1.5) is None


def test_a_question_is_refused_early() -> None:
    with pytest.raises(ValueError, match="unknown model"):
        Question("nope")
    with pytest.raises(ValueError, match="candidates must be distinct"):
        Question("mlp", ("natural", "natural"))
    with pytest.raises(ValueError, match="density must lie in"):
        Question("mlp", ("topk(density=2)",))
    question = Question("mlp", ("natural",), check=True)
    assert records.from_json(Question, records.to_json(question), "the question") == question


# ---- the command


def tiny(rank: int) -> tuple[torch.nn.Module, object]:
    """Make the model that the story below asks about."""
    rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(rank))
    return torch.nn.Linear(8, 2), lambda model: model(rows).square().mean()


def vector() -> tuple[torch.nn.Module, object]:
    """A loss that nobody can descend on."""
    return torch.nn.Linear(8, 2), lambda model: model(torch.ones(4, 8))


def broken() -> tuple[torch.nn.Module, object]:
    """A loss that is not a number."""
    return torch.nn.Linear(8, 2), lambda model: model(torch.ones(4, 8)).sum() * math.nan


class Partly(torch.nn.Sequential):
    """A model that does not use its last layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[0](x)


def partly() -> tuple[torch.nn.Module, object]:
    """A loss that gives a layer no gradient."""
    layers = Partly(torch.nn.Linear(8, 2), torch.nn.Linear(8, 2))
    return layers, lambda model: model(torch.ones(4, 8)).sum()


@pytest.mark.story
@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (vector, r"^the loss must be a tensor of one element .*, got one of shape \[4, 2\]$"),
        (partly, r"^the loss gives no gradient to 1\.weight, 1\.bias: freeze what is not trained$"),
        (broken, r"^the gradient of weight is not finite under dense: .*; look at the loss and the inputs$"),
    ],
)
def test_advice_on_a_bad_loss_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, factory: Callable[[], object], words: str
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    with pytest.raises(Failed, match=words):
        ask(Question(f"test_advice:{factory.__name__}"), 2, None)


@pytest.mark.story
def test_advice_on_a_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are predicted and measured; a spec that does not fit the ranks is named and left out."""
    monkeypatch.chdir(Path(__file__).parent)
    spec, refused = "ef(topk(density=0.5))", "permk(workers=3)"
    advised = ask(Question("test_advice:tiny", (spec, refused), check=True, steps=3), 2, None)
    assert advised.verdict.choice in ("dense", "fp16")  # eighteen values: either is a matter of microseconds
    assert "3" in advised.verdict.of(refused).refusal
    assert advised.measured.keys() == {"none", "dense", "fp16", spec}
    assert advised.verdict.of("dense").traffic == 4 * 18
    assert advised.verdict.of(spec).crossover is not None
    assert advised.compute > 0
    assert [one.exchange for one in advised.rounds] == [EXCHANGE, "mean"]
    assert advised.rounds[1].traffic == 4 * 18 + 32
    shown = Console(width=200)
    with shown.capture() as text:
        figures, lines = table(advised)
        shown.print(figures)
        for line in lines:
            shown.print(line, markup=False, soft_wrap=True)
    for word in ("measured ms", spec, refused, "pays below", "loopback", "local, every"):
        assert word in text.get()


def test_bandwidths_in_words() -> None:
    assert [rate_of(rate) for rate in (None, 0.0, math.inf)] == ["-", "never", "any rate"]
    assert [rate_of(rate) for rate in (1.25e6, 2e8)] == ["10 Mbit/s", "1.6 Gbit/s"]


# ---- auto


def test_auto_names_local_steps_where_they_pay() -> None:
    one = LocalRound(EXCHANGE, 0.1, 0.05, 0.05, 2.0)
    assert one.every == 10
    assert one.seconds(10) == pytest.approx(0.11)
    assert one.beats(0.2)
    assert not one.beats(0.11 / MARGIN)
    assert one.beats(0.1101 / MARGIN)
    assert not replace(one, refusal="it cannot be rehearsed").beats(9.9)
    assert "110 ms a step: gradwire.local(model, optimizer, every=10)" in one.sentence


@pytest.mark.story
def test_auto_stays_dense_where_nothing_pays() -> None:
    codes, lines, errors = watch("auto_stays_dense", ranks=2, seconds=120, group=60)
    assert codes == [0, 0], errors
    assert errors.split() == ["[rank0]", "[rank1]"]  # hooks that are opened and closed leave torch nothing to warn of
    first, second = (line["result"] for line in sorted(lines, key=lambda line: line["rank"]))
    assert first["choice"] == second["choice"] == "dense"
    assert first["methods"] == ["dense", "ef(topk(density=0.1))", "identity"]
    assert [first["logged"], second["logged"]] == [1, 0]


@pytest.mark.story
def test_auto_compresses_where_it_pays() -> None:
    first, second = (line["result"] for line in play("auto_compresses", ranks=2))
    assert first["choice"] == second["choice"]
    assert first["choice"] in ("identity", "ef(topk(density=0.1))")


def test_auto_refuses_early() -> None:
    with pytest.raises(TypeError, match="wrapped in DistributedDataParallel, got Linear"):
        gw.attach(torch.nn.Linear(2, 2), "auto")
    with pytest.raises(ValueError, match="candidates are for 'auto', got them with natural"):
        gw.attach(torch.nn.Linear(2, 2), "natural", candidates=["mean"])
