"""The functions that ranks run in the stories of changing workers: foreign groups, failures, leaving and joining."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.distributed as dist
from ranks import loss, main, model, one_by_one, timeout
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gradwire as gw
from gradwire.ask import AllGather, AllReduce, AllToAll, Broadcast
from gradwire.transport.process import Process

CAP = 0.004
SPECS = (
    "ef(topk(density=0.1))",
    "diana(randk(density=0.2))",
    "dgc(topk(density=0.1))",
    "ef(powersgd(rank=2))",
    "ef21sgdm(topk(density=0.1))",
    "marina(randk(density=0.2), p=0.2)",
    "ef(micro(density=0.1))",
    "ef(deft(density=0.1, repack_every=3))",
)


def foreign(ranks: Sequence[int], name: str) -> gw.Members:
    """Make a group that torch.distributed does not know, as torchft does."""
    store = dist.PrefixStore(name, dist.distributed_c10d._get_default_store())
    rank = list(ranks).index(dist.get_rank())
    return gw.Members(dist.ProcessGroupGloo(store, rank, len(ranks), timeout()), rank, len(ranks))


def members_are_a_group() -> None:
    """On a group that torch does not know every ask has the same answer, and training has the same bits and bytes."""
    rank, size = dist.get_rank(), dist.get_world_size()
    given = foreign(range(size), "members")
    known, other = Process(dist.group.WORLD), Process(given)

    async def ask(what: object) -> Tensor:
        return await what

    for dtype in (torch.float32, torch.uint8, torch.int64, torch.float64):
        x = torch.arange(size * 3).view(size, 3).to(dtype) + rank
        for what in (AllReduce(x), AllReduce(x, "max"), Broadcast(x, 1), Broadcast(x[:0], 0)):
            assert torch.equal(known.run(ask(what)), other.run(ask(what)))
        for what in (
            AllGather(x.view(-1).view(torch.uint8)),
            AllToAll(x.view(torch.uint8)),
            AllGather(x[0, :1].view(torch.uint8)),
        ):
            assert torch.equal(known.run(ask(what)), other.run(ask(what)))
    assert known.ledger.bytes == other.ledger.bytes
    assert gw.Members().rank == 0
    for spec in SPECS:
        nets = [model(), model()]
        hooks = [
            gw.attach(net, spec, bucket_mb=CAP, group=group) for net, group in zip(nets, (None, given), strict=True)
        ]
        for step in range(4):
            for net in nets:
                train(net, step, rank)
        assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True)), spec
        assert hooks[0].ledger.bytes == hooks[1].ledger.bytes
        for hook in hooks:
            hook.close()
    nets = [model(), model()]
    for net, group in zip(nets, (None, given), strict=True):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        with gw.local(net, optimizer, every=2, group=group):
            for step in range(5):
                loss(net, step, rank).backward()
                optimizer.step()
                optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert given.group.size() == size  # closed by nobody but its owner
    alone = gw.attach(model(), "ef(topk(density=0.1))", group=gw.Members())
    assert (alone.process.rank, alone.process.size) == (0, 1)
    alone.close()
    for door in (lambda group: gw.attach(model(), "mean", group=group), alone.regroup):
        with pytest.raises(
            ValueError, match=r"torch.distributed does not know this ProcessGroupGloo; give gradwire.Members"
        ):
            door(given.group)
    for words, wrong in (
        (r"rank must be a whole number from 0 to 1, got 2", (None, 2, 2)),
        ("has 1 ranks", (None, 0, 3)),
    ):
        with pytest.raises(ValueError, match=words):
            gw.Members(*wrong)
    wrapped = gw.attach(DistributedDataParallel(model()), "mean")
    with pytest.raises(
        ValueError, match="DistributedDataParallel cannot change its ranks: attach gradwire to the bare"
    ):
        wrapped.regroup(dist.group.WORLD)
    wrapped.close()


def train(net: nn.Module, step: int, rank: int) -> None:
    loss(net, step, rank).backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= 0.05 * parameter.grad
    net.zero_grad()


def copy_from(net: nn.Module, root: int, group: dist.ProcessGroup) -> None:
    for parameter in net.parameters():
        dist.broadcast(parameter.detach(), root, group=group)


def mean_of(hook: gw.Hook | gw.Local, ending: str, ranks: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """Return (1/n) times the sum, over these ranks, of the memory entries with this ending; other
    ranks count as zero.
    """
    parts = hook.state_dict()["memory"]
    found = [part.flatten() for one in parts.values() for path, part in one.items() if path.endswith(ending)]
    total = torch.cat(found) if dist.get_rank() in ranks else torch.zeros_like(torch.cat(found))
    dist.all_reduce(total, group=group)
    return total / len(ranks)


def leave_and_join() -> None:
    """A third worker joins two, then the first leaves: what is owed is kept, and all workers know one mean."""
    rank, two, three = dist.get_rank(), dist.new_group([0, 1]), dist.new_group([0, 1, 2])
    late = dist.new_group([1, 2])
    for spec in SPECS:
        net = model(seed=7 if rank == 2 else 0)
        hook = gw.attach(net, spec, bucket_mb=CAP, seed=rank // 2, group=gw.Members() if rank == 2 else two)
        if rank < 2:
            for step in range(4):
                train(net, step, rank)
        copy_from(net, 0, three)
        endings = {"diana": "h", "ef21sgdm": "h", "dgc": "v", "marina": "said"}
        ending = endings.get(spec.partition("(")[0], "error")
        owed = mean_of(hook, ending, [0, 1], three)
        hook.regroup(three)
        assert (hook.step, hook.seed, hook.process.size) == (4, 0, 3)
        torch.testing.assert_close(mean_of(hook, ending, [0, 1, 2], three), owed, rtol=1e-5, atol=1e-7)
        for step in range(4, 8):
            train(net, step, rank)
        same_everywhere(net, three)
        if rank == 0:
            hook.close()
            continue
        hook.regroup(late)
        for step in range(8, 11):
            train(net, step, rank)
        assert (hook.step, hook.process.size) == (11, 2)
        same_everywhere(net, late)
        hook.close()


def same_everywhere(net: nn.Module, group: dist.ProcessGroup) -> None:
    flat = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    found = [torch.empty_like(flat) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, flat, group=group)
    assert all(torch.equal(one, found[0]) for one in found)


def local_leave_and_join() -> None:
    """The same with local steps: a worker that joins starts at the anchor, with its peers' buffers and place in the
    schedule.
    """
    rank, two, three = dist.get_rank(), dist.new_group([0, 1]), dist.new_group([0, 1, 2])
    late = dist.new_group([1, 2])
    for options in (
        {"exchange": "ef(topk(density=0.1))"},
        {"exchange": "diana(randk(density=0.2))", "outer": "nesterov(lr=0.5, momentum=0.5)"},
        {"exchange": "ef(topk(density=0.1))", "delay": 1, "fragments": 2, "bucket_mb": CAP},
    ):
        net = nn.Sequential(model(seed=rank // 2), nn.BatchNorm1d(2))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        local = gw.local(net, optimizer, every=3, group=gw.Members() if rank == 2 else two, **options)
        if rank < 2:
            take(net, optimizer, range(7), rank)
        kept = [parameter.detach().clone() for parameter in net.parameters()]
        ending = "error" if "ef" in options["exchange"] else "h"
        owed = mean_of(local, f"memory.{ending}", [0, 1], three)
        local.regroup(three)
        torch.testing.assert_close(mean_of(local, f"memory.{ending}", [0, 1, 2], three), owed, rtol=1e-5, atol=1e-7)
        units = local.engine.all_units()
        at_anchor = all(torch.equal(part, value) for unit in units for part, value in unit._pairs(unit.anchor))
        assert at_anchor == (rank == 2)
        if rank < 2 and "delay" not in options:
            assert all(torch.equal(a, b) for a, b in zip(kept, net.parameters(), strict=True))
        assert local.local_steps == 7
        take(net, optimizer, range(7, 12), rank)
        assert local.finish()
        same_everywhere(net, three)
        if rank > 0:
            local.regroup(late)
            take(net, optimizer, range(12, 15), rank)
            assert local.finish()
            same_everywhere(net, late)
            assert local.process.size == 2
        local.close()


def take(net: nn.Module, optimizer: torch.optim.Optimizer, steps: Sequence[int], rank: int) -> None:
    for step in steps:
        loss(net, step, rank).backward()
        optimizer.step()
        optimizer.zero_grad()


def rolls_back() -> None:
    """A step that is not committed leaves no trace and is repeated with the same bits; so does half a step."""
    rank = dist.get_rank()
    for spec in (*SPECS, "guard(ef(topk(density=0.1)))"):
        for cap in (CAP, None):
            net = model()
            hook = gw.attach(net, spec, bucket_mb=cap)
            assert not hook.rollback()
            for step in range(3):
                train(net, step, rank)
            before = hook.state_dict()
            means = []
            for _ in range(2):  # all of a step, taken twice
                loss(net, 3, rank).backward()
                means.append([parameter.grad.clone() for parameter in net.parameters()])
                assert hook.step == 4
                net.zero_grad(set_to_none=False)
                assert hook.rollback()
                assert same(before, hook.state_dict()), spec
                assert (hook.step, hook.skipped, hook.rollback()) == (3, 0, False)
            net[2:](torch.ones(6, 30)).sum().backward()  # a part of one
            assert hook.rollback()
            net.zero_grad()
            assert same(before, hook.state_dict()), spec
            (loss(net, 3, rank) * float("inf")).backward()
            assert (hook.step, hook.skipped) == (4, 1)
            assert hook.rollback()
            assert (hook.step, hook.skipped) == (3, 0)
            net.zero_grad()
            assert all(torch.equal(a, b) for a, b in zip(*means, strict=True)), spec
            hook.close()


def same(a: dict, b: dict) -> bool:
    return all(
        torch.equal(part, b["memory"][name][path]) for name, one in a["memory"].items() for path, part in one.items()
    )


def killed_in_an_exchange() -> dict[str, float]:
    """Rank 2 of three is killed inside an exchange: the others soon have an error, their memory is unchanged, and they
    go on.
    """
    rank = dist.get_rank()
    longest = 0.0
    net = model()
    one_by_one()
    hooks, nets = [], []
    for spec in SPECS:
        net = model()
        hooks.append(gw.attach(net, spec, bucket_mb=CAP))
        nets.append(net)
        for step in range(3):
            train(net, step, rank)
    for hook, net in zip(hooks, nets, strict=True):
        last = hook is hooks[-1]
        if rank == 2 and last:
            hook.process.begin = ends_at(hook.process.begin, 3)
        if not last:
            train(net, 3, rank)
    before, started = hooks[-1].state_dict(), time.monotonic()
    with pytest.raises(RuntimeError, match="gradwire's exchange failed"):
        loss(nets[-1], 3, rank).backward()
    longest = time.monotonic() - started
    assert same(before, hooks[-1].state_dict())
    assert hooks[-1].step == 3
    two = dist.new_group([0, 1], use_local_synchronization=True)
    for hook, net in zip(hooks, nets, strict=True):
        parts = hook.state_dict()
        net.zero_grad()
        hook.regroup(two)
        for name, one in hook.state_dict()["memory"].items():
            if "error" in one:
                assert torch.allclose(one["error"], parts["memory"][name]["error"] * 2 / 3)
        for step in range(4, 8):
            train(net, step, rank)
        same_everywhere(net, two)
        assert hook.process.size == 2
        hook.close()
    return {"seconds": longest}


def ends_at(begin: Callable, call: int) -> Callable:
    """Wrap a function so that the process ends at one of its calls."""
    calls = []

    def end(ask: object) -> Callable[[], Tensor]:
        calls.append(ask)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return begin(ask)

    return end


def one_after_the_other(*names: str) -> dict[str, object]:
    """Run several stories on the same ranks, because a start takes longer than each of them."""
    return {name: globals()[name]() for name in names}


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
