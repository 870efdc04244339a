"""What advice knows of doors and islands: which tensors go through, what they wait for, and whose link they take."""

from __future__ import annotations

import itertools
from typing import cast

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from gradwire.advice import Cost, Link, Pace
from gradwire.advice.doors import beside, own_part, own_traffic, shard_of, through_ddp, through_module, through_shards
from gradwire.advice.pace import trained
from gradwire.advice.timeline import Part
from gradwire.advice.work import errands, shards
from gradwire.ask import Axis
from gradwire.cli.advise import door_lines
from gradwire.lab.bench.advised import Question
from gradwire.lab.bench.advising import ask
from gradwire.spec import parse

KINDS = ("AllReduce", "AllGather", "Broadcast", "AllToAll")


def link(size: int, alpha: float, per_byte: float) -> Link:
    return Link(size, 1.0, {kind: Cost(alpha, per_byte) for kind in KINDS})


@pytest.fixture
def ddp() -> object:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    yield DistributedDataParallel(nn.Sequential(nn.Linear(6, 50), nn.Linear(50, 41), nn.Linear(41, 1)))
    dist.destroy_process_group()


def pace_of(ddp: DistributedDataParallel) -> Pace:
    """The last parameter's gradient comes first, one every millisecond."""
    count = len(trained(ddp))
    ready = tuple(1e-3 * (count - number) for number in range(count))
    return Pace(compute=1e-3 * count, tail=0.0, ready=ready, period=0.02)


def test_a_module_waits_in_its_own_order(ddp: DistributedDataParallel) -> None:
    gradients = [torch.randn_like(param) for param in trained(ddp)]
    unit = 4 * 50 * 41 + 200
    through = through_module(ddp, gradients, 2)
    assert [name for name, _ in through.named] == [name for name, _ in ddp.module.named_parameters()][::-1]
    assert all(
        tensor.shape == gradient.shape for (_, tensor), gradient in zip(through.named, through.gradients, strict=True)
    )
    found = errands(through, parse("ef(topk(density=0.1))"), unit)
    assert len(found) > 1
    for before, after in itertools.pairwise(found):
        assert set(before.parameters) < set(after.parameters), "a unit also waits for those before it"
    assert sorted(found[-1].parameters) == list(range(len(gradients)))

    by_bucket = errands(through_ddp(ddp, gradients, pace_of(ddp), 2, unit), parse("ef(topk(density=0.1))"), unit)
    assert len(by_bucket) == len(found)
    assert [e.traffic for e in by_bucket] == [e.traffic for e in found]


def test_of_shards_a_rank_exchanges_its_own(ddp: DistributedDataParallel) -> None:
    gradients = [torch.randn_like(param) for param in trained(ddp)]
    whole = through_module(ddp, gradients, 8)
    parts = [through_shards(whole, rank, 4) for rank in range(8)]
    assert {part.size for part in parts} == {2}
    for number, (_, tensor) in enumerate(whole.named):
        assert torch.equal(torch.cat([parts[rank].named[number][1] for rank in range(4)]).view_as(tensor), tensor)
        assert torch.equal(parts[5].gradients[number], parts[1].gradients[number])
    native = sum(errand.traffic for errand in shards(parts[0], float("inf")))
    assert native == pytest.approx(sum(tensor.nbytes for _, tensor in parts[0].named))  # 2 (n - 1) / n of it, n = 2


def test_shards_are_fsdps() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    net = nn.Sequential(nn.Linear(6, 50), nn.Linear(50, 41))
    plain = [param.detach().clone() for param in net.parameters()]
    fully_shard(net, mesh=DeviceMesh("cpu", [0]))
    for param, values in zip(net.parameters(), plain, strict=True):
        assert torch.equal(cast(DTensor, param).to_local(), shard_of(values, 0, 1))
    dist.destroy_process_group()
    rows = torch.arange(10.0).view(5, 2)
    assert [len(shard_of(rows, place, 4)) for place in range(4)] == [len(chunk) for chunk in rows.chunk(4)] + [0]
    assert len(shard_of(torch.tensor(1.0), 0, 2)) == 1
    assert len(shard_of(torch.tensor(1.0), 1, 2)) == 0


def test_an_ask_along_an_axis_takes_the_link_there() -> None:
    among = link(8, 1.0, 1.0)
    both = Link(8, 1.0, among.costs, inside=link(4, 0.001, 1e-9), between=link(2, 0.5, 0.25))
    for axis, cost in (
        (None, among), (Axis(4), both.inside), (Axis(2), both.inside), (Axis(2, 2), both.inside),
        (Axis(2, 4), both.between), (Axis(8), among), (Axis(4, 2), among),
    ):  # fmt: skip
        assert both.part("AllGather", 100.0, axis) == cast(Link, cost).part("AllGather", 100.0), axis
        assert among.part("AllGather", 100.0, axis) == among.part("AllGather", 100.0)
    slower = both.at(2.0)
    assert slower.inside == both.inside
    assert cast(Link, slower.between).costs["AllGather"].per_byte == 0.5


def test_what_fsdp_sends_itself() -> None:
    """Two gathers and a reduce-scatter: 3 (s - 1) / s of the model; they delay a step that computes less."""
    assert own_traffic(1000.0, 4) == 2250.0
    own = own_part(1000.0, link(4, 0.0, 1e-3), 500.0)
    assert own.wait + own.cpu == pytest.approx(2.25)
    pace = Pace(compute=1.0, tail=0.0, ready=(0.5, 1.0), period=1.5)
    assert beside(pace, Part(0.0, 0.75), 1.0) == pace
    longer = beside(pace, Part(0.0, 2.0), 1.0)
    assert (longer.compute, longer.ready, longer.period) == (2.0, (1.0, 2.0), 2.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"door": "window"}, "ddp, module, sharded, got 'window'"),
        ({"door": "sharded"}, "the sharded door needs islands of at least 2 ranks"),
        ({"inside": "1gbit"}, "a rate of 1gbit inside needs islands of at least 2 ranks"),
        ({"island": 0}, "at least 1, got 0"),
        ({"island": 2, "inside": "fast"}, "fast"),
        ({"door": "module", "check": True}, "got the module door"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Question("mlp", ("ef(topk(density=0.01))",), **options)
    with pytest.raises(ValueError, match="3"):
        Question("mlp", ("ef(topk(density=0.01))",), island=2).check_ranks(3)


@pytest.mark.story
def test_advice_about_shards() -> None:
    question = Question("mlp", ("ef(topk(density=0.01))",), door="sharded", island=2, inside="10gbit", seconds=5.0)
    advised = ask(question, ranks=4, rate=None)
    model = 2 * advised.verdict.of("dense").traffic  # native HSDP's: of two islands, a rank's half of the model
    assert advised.own_traffic == pytest.approx(own_traffic(model, 2))
    assert any("FSDP2's own gathering" in line for line in door_lines(advised))
