"""The functions that ranks run in the stories of local steps."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from ranks import assert_equal_on_all_ranks, batch, loss, main, model, roundtrip
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

import gradwire as gw
from gradwire.engine.anchored import Anchored
from gradwire.layout import Turn

BUCKET = 0.004
"""Megabytes: three units of the small net."""

CASES: dict[str, dict[str, object]] = {
    "default": {},
    "two units, decay of nothing": {"exchange": "ef(topk(density=0.1))", "bucket_mb": BUCKET},
    "error in bfloat16": {
        "exchange": "ef(chunkedtopk(density=0.1, values='bits2'), decay=0.95, dtype='bfloat16')",
        "bucket_mb": BUCKET,
    },
    "diloco": {"exchange": "mean", "outer": "nesterov(lr=0.7, momentum=0.9)"},
    "diana": {"exchange": "diana(randk(density=0.2))", "outer": "sgd"},
    "deft": {"exchange": "ef(deft(density=0.1))", "outer": "sgd", "bucket_mb": BUCKET},
    "late, mix": {"delay": 2, "bucket_mb": BUCKET},
    "late, add": {"delay": 2, "catch_up": "add"},
    "late, drop": {"delay": 3, "catch_up": "drop"},
    "fragments": {"fragments": 3, "bucket_mb": BUCKET},
    "late fragments": {"fragments": 2, "delay": 2, "catch_up": "add", "bucket_mb": BUCKET},
    "growing rounds": {"every": gw.Every(8, warmup_steps=9)},
    "on the host": {"keep": "cpu"},
}


class Normed(nn.Module):
    """A net with batch normalisation (statistics and a count) and a frozen, a shared and an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.shared = nn.Linear(8, 8)
        self.again = self.shared
        self.register_buffer("passing", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.shared(self.norm(self.first(x)) * self.frozen)))


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    """Make an AdamW with two parameter groups, as users do."""
    params = [param for param in net.parameters() if param.requires_grad]
    groups = [{"params": params[::2], "weight_decay": 0.1}, {"params": params[1::2], "lr": 0.005}]
    return torch.optim.AdamW(groups, lr=0.01)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int, rank: int) -> None:
    for step in range(first, last):
        loss(net, step, rank).backward()
        optimizer.step()
        optimizer.zero_grad()


def flat(net: nn.Module) -> Tensor:
    return torch.cat([param.detach().flatten() for param in net.parameters()])


def everywhere(x: Tensor) -> Tensor:
    """Gather f[n, ...], every rank's tensor."""
    found = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(found, x)
    return torch.stack(found)


def rounds_end_alike() -> dict[str, list[int]]:
    """In every case ranks differ inside a round and are equal, bit for bit, after `finish`; bytes are counted."""
    rank, counted = dist.get_rank(), {}
    for name, options in CASES.items():
        torch.manual_seed(100 + rank)  # ranks that were initialised differently start alike all the same
        net = model(seed=rank)
        optimizer = adamw(net)
        with gw.local(net, optimizer, **{"every": 5, **options}) as local:
            assert_equal_on_all_ranks(net)
            steps(net, optimizer, 0, 12, rank)
            models = everywhere(flat(net))
            assert not torch.equal(models[0], models[1]), name
            assert local.finish()
            assert_equal_on_all_ranks(net)
            before = local.ledger.bytes
            assert local.finish()  # nothing has been done since: a few words are all that travels
            assert local.ledger.bytes - before <= 64 * local.engine.fragments
            counted[name] = [local.step, local.local_steps, local.ledger.bytes]
        assert local.local_steps == 12
        steps(net, optimizer, 12, 20, rank)  # closed: the optimizer goes on by itself
        assert local.local_steps == 12
    return counted


def is_parameter_averaging() -> None:
    """Rounds equal torch's PeriodicModelAverager: bit for bit on numbers whose sums are exact, else up to rounding."""
    rank = dist.get_rank()
    for exact in (True, False):
        nets = [model(), model()]
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.25) for net in nets]
        for net in nets:
            for param in net.parameters():
                if exact:
                    param.data.mul_(256).round_().div_(256)
        local = gw.local(nets[0], optimizers[0], every=4, exchange="mean", outer="sgd(lr=1.0)", bucket_mb=BUCKET)
        averager = PeriodicModelAverager(period=4, warmup_steps=3)
        for step in range(9):
            for net, optimizer in zip(nets, optimizers, strict=True):
                for number, param in enumerate(net.parameters()):
                    generator = torch.Generator().manual_seed(100 * step + 10 * rank + number)
                    whole = torch.randint(-64, 64, param.shape, generator=generator) / 256
                    param.grad = whole if exact else whole + torch.rand(param.shape, generator=generator)
                optimizer.step()
            averager.average_parameters(nets[1].parameters())
            if exact and step < 8:  # sums of twice averaged numbers need one bit more each time
                assert torch.equal(flat(nets[0]), flat(nets[1])), step
            torch.testing.assert_close(flat(nets[0]), flat(nets[1]))
        local.close()


def resumes_in_a_round() -> dict[str, bool]:
    """Seventeen steps without a break equal a run restarted after nine, or after six with an exchange under way.

    The bits are equal in every case.
    """
    rank, equal = dist.get_rank(), {}
    for name, options in CASES.items():
        ends = []
        for legs in ([17], [9, 8], [6, 11]):
            net, done, saved = Normed() if name in ("default", "late, mix", "late, add") else model(), 0, None
            torch.manual_seed(0)
            for layer in net.modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
            for leg in legs:
                optimizer = adamw(net)
                local = gw.local(net, optimizer, **{"every": 5, **options}, seed=4)
                if saved is not None:
                    optimizer.load_state_dict(saved[1])
                    local.load_state_dict(saved[0])
                    for buffer, value in zip(net.buffers(), saved[2], strict=True):
                        buffer.copy_(value)
                steps(net, optimizer, done, done + leg, rank)
                saved = (
                    roundtrip(local.state_dict(), rank),
                    optimizer.state_dict(),
                    [buffer.clone() for buffer in net.buffers()],
                )
                done += leg
                if done < 17:  # only what was saved goes on
                    for param in filter(lambda param: param.requires_grad, net.parameters()):
                        param.data.fill_(float(rank))
                    local.close()
            local.finish()
            ends.append(flat(net))
            local.close()
        equal[name] = all(torch.equal(ends[0], end) for end in ends)
    return equal


def gloo_is_lockstep() -> None:
    """Three rounds on ranks equal the same rounds of all workers in one process, with the same local steps."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for spec, outer in (
        ("ef(topk(density=0.1, values='bits2'))", "sgd(lr=1.0, mean='senders')"),
        ("ef(topk(density=0.1))", "nesterov(lr=0.5, momentum=0.5)"),
        ("randk(density=0.3)", "sgd"),
        ("mean", "sgd"),
        ("ef(deft(density=0.1))", "sgd"),
    ):
        nets = [model() for _ in range(size)]
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.05) for net in nets]
        exact = "gather" in spec or "topk" in spec or "randk" in spec
        local = gw.local(nets[rank], optimizers[rank], every=3, exchange=spec, outer=outer, seed=7)
        names = local.layouts[0].names
        thetas = [model() for _ in range(size)]
        units = [
            Anchored(
                [(name, dict(net.named_parameters())[name].data) for name in names],
                local.exchange,
                local.outer,
                torch.device("cpu"),
            )
            for net in thetas
        ]
        inner = [torch.optim.SGD(net.parameters(), lr=0.05) for net in thetas]
        for number in range(3):
            steps(nets[rank], optimizers[rank], 3 * number, 3 * number + 3, rank)
            for worker in range(size):
                steps(thetas[worker], inner[worker], 3 * number, 3 * number + 3, worker)
            turns = [Turn(worker, size, number, units[0].layout, 7) for worker in range(size)]
            scratch = [torch.empty(units[0].layout.d) for _ in units]
            talks = [
                u.average(local.exchange, local.outer, t, x) for u, t, x in zip(units, turns, scratch, strict=True)
            ]
            gw.lockstep(talks)
            for unit in units:
                unit.catch_up("mix", moved=True)
            if exact:
                assert torch.equal(flat(nets[rank]), flat(thetas[0])), (spec, number)
            torch.testing.assert_close(flat(nets[rank]), flat(thetas[0]))
        local.close()


def loops() -> None:
    """Test accumulation, clipping, schedulers, a GradScaler that skips on one rank, compiled models, several
    optimizers.
    """
    rank = dist.get_rank()
    net = model()
    compiled = torch.compile(net, backend="eager")
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=40)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    local = gw.local(compiled, optimizer, every=3, bucket_mb=BUCKET)
    assert all("_orig_mod" not in name for layout in local.layouts for name in layout.names)
    for step in range(14):
        for micro in range(2):
            scaler.scale(loss(compiled, 2 * step + micro, rank)).backward()
        if rank == 1 and step in (4, 5, 9):
            next(net.parameters()).grad.fill_(float("inf"))
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()
    assert local.local_steps == (14 if rank == 0 else 11)
    assert local.finish()
    assert_equal_on_all_ranks(net)
    counts = everywhere(torch.tensor([local.step, local.skipped]))
    assert counts[0].tolist() == counts[1].tolist()
    assert local.skipped == 0
    local.close()

    net, other = Normed(), nn.Linear(2, 2)
    pair = nn.ModuleList([net, other])
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.01), torch.optim.Adam(other.parameters(), lr=0.01)]
    local = gw.local(pair, optimizers, every=2, exchange="mean", outer="sgd")
    for step in range(6):
        if step == 5:
            mean, count = net.norm.running_mean.clone(), net.norm.num_batches_tracked.clone()
        other(net(batch(step, rank))).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert local.step == 3
    assert_equal_on_all_ranks(pair)
    statistics = everywhere(net.norm.running_mean)
    assert torch.equal(statistics[0], statistics[1])
    assert not torch.equal(mean, statistics[0])
    assert everywhere(net.norm.num_batches_tracked).unique().numel() == 1
    assert count < net.norm.num_batches_tracked
    assert not any("frozen" in name or "again" in name for layout in local.layouts for name in layout.names)
    local.close()


def not_finite() -> None:
    """After a NaN on one rank the round continues everywhere, and the next one contains all of it."""
    rank = dist.get_rank()
    nets = [model(), model()]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05) for net in nets]
    options = {"exchange": "mean", "outer": "sgd"}
    local, whole = (gw.local(nets[i], optimizers[i], every=(3, 6)[i], **options) for i in range(2))
    steps(nets[1], optimizers[1], 0, 6, rank)
    steps(nets[0], optimizers[0], 0, 2, rank)
    first = next(nets[0].parameters())
    loss(nets[0], 2, rank).backward()
    before, run = flat(nets[0]), local.engine.run

    def broken(**options: bool) -> object:
        """Act as if the step had left a NaN on rank 1."""
        kept = first.data[0, 0].item()
        first.data[0, 0] = float("nan") if rank == 1 else kept
        outcome = run(**options)
        first.data[0, 0] = kept
        return outcome

    local.engine.run = broken
    optimizers[0].step()
    local.engine.run = run
    optimizers[0].zero_grad()
    assert (local.step, local.skipped) == (1, 1)
    assert not torch.equal(before, flat(nets[0]))
    steps(nets[0], optimizers[0], 3, 6, rank)
    assert (local.step, local.skipped) == (2, 1)
    assert torch.equal(flat(nets[0]), flat(nets[1]))
    first.data[0, 0] = float("inf")
    loss(nets[0], 9, rank)
    optimizers[0].step()
    assert not local.finish()
    for each in (local, whole):
        each.close()


def refuses() -> None:
    """All ranks refuse in one sentence: settings on which they do not agree, and checkpoints that do not fit."""
    rank = dist.get_rank()
    net = model()
    optimizer = adamw(net)
    for name, value in (("every", 5 + rank), ("seed", rank), ("delay", rank), ("outer", f"sgd(lr={1 + rank})")):
        with pytest.raises(ValueError, match="the ranks attach with another"):
            gw.local(net, optimizer, **{name: value})
    with pytest.raises(ValueError, match="averages gradients over ranks \\[0, 1\\] at every step already"):
        gw.local(DistributedDataParallel(model()), optimizer)
    local, rows = gw.local(net, optimizer, every=4), []
    local.log_to(SimpleNamespace(log=rows.append), every=3)
    steps(net, optimizer, 0, 6, rank)
    assert [row["gradwire/step"] for row in rows] == [0.0, 1.0]
    assert local.ledger.dense == 6 * sum(param.nbytes for param in net.parameters())
    assert f"every 4 steps, sgd(mean='senders'), 6 local steps, rank {rank} of 2, step 1, 0 skipped" in repr(local)
    saved = local.state_dict()
    before = flat(net)

    def refused(words: str, **changed: object) -> None:
        with pytest.raises(ValueError, match=words if rank == 0 else "rank 0 has refused"):
            local.load_state_dict({**saved, **changed} if rank == 0 else saved)
        assert torch.equal(before, flat(net))

    position = saved["local"]
    refused("not a checkpoint of gradwire.local", local=None)
    refused("is of every=Every", local={**position, "every": "Every(steps=9, warmup_steps=0, start=1)"})
    refused("position in its round is not made of whole numbers", local={**position, "due": "soon"})
    refused("another number of fragments", local={**position, "settled": [1, 2]})
    refused("not made of whole numbers", local={**position, "arrivals": [[0]]})
    refused("not made of whole numbers", local={**position, "settled": [[1, 2]]})
    refused("another number of fragments", local={**position, "arrivals": [[1, 7]]})
    refused("buffers are not a list of tensors", local={**position, "buffers": None})
    refused("is of a model with other buffers", local={**position, "buffers": [torch.zeros(3)] * 4})
    refused("is of a model with other buffers", local={**position, "buffers": [torch.zeros(0)]})
    refused("the checkpoint is of mean", exchange="mean")
    refused("the checkpoint's rank must be a whole number, got 'x'", rank="x")
    refused("not a checkpoint of a gradwire hook", world_size=2, step=6, other=1)
    memory = {name: dict(parts) for name, parts in saved["memory"].items()}
    memory["0.weight"]["anchor"] = memory["0.weight"]["anchor"] + 1.0
    refused("the checkpoint's memory is damaged: its checksum is", memory=memory)
    with pytest.raises(ValueError, match="has a checkpoint of another step, seed or run"):
        local.load_state_dict({**saved, "memory": memory, "checksum": None} if rank == 0 else saved)
    local.load_state_dict(saved)
    assert torch.equal(before, flat(net))
    local.close()


def islands() -> None:
    """In two islands DDP averages inside and local steps exchange between; then two workers become four, and one."""
    rank = dist.get_rank()
    inside = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    between = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    net = model(seed=rank // 2)
    ddp = DistributedDataParallel(net, process_group=inside[rank // 2], bucket_cap_mb=BUCKET)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    local = gw.local(ddp, optimizer, every=4, group=between[rank % 2])
    assert_equal_on_all_ranks(net)
    steps(ddp, optimizer, 0, 6, rank)
    models = everywhere(flat(net))
    assert torch.equal(models[0], models[1])
    assert torch.equal(models[2], models[3])
    assert not torch.equal(models[0], models[2])
    assert local.finish()
    assert_equal_on_all_ranks(net)
    saved = [None] * 4
    dist.all_gather_object(saved, local.state_dict())
    local.close()

    two = gw.merge([saved[0], saved[2]])
    net = model(seed=9)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    local = gw.local(net, optimizer, every=4)
    local.load_state_dict(two)
    assert torch.equal(flat(net), models_of(two, net))
    steps(net, optimizer, 6, 15, rank)
    dist.all_gather_object(saved, local.state_dict())
    four = gw.merge(saved)
    local.close()

    alone = dist.new_group([rank], use_local_synchronization=True)
    net = model(seed=9)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    local = gw.local(net, optimizer, every=4, group=alone)
    local.load_state_dict(four)
    steps(net, optimizer, 15, 20, 0)
    assert local.finish()
    assert torch.isfinite(flat(net)).all()
    assert local.local_steps == 20
    local.close()


def sharded() -> None:
    """Two islands of FSDP2 shards with local steps between them equal whole models with gradients averaged in an
    island.

    A forward pass for evaluation, which leaves parameters gathered, does not hide what an exchange has written.
    """
    rank = dist.get_rank()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    inside = mesh["shard"].get_group()
    for exchange, options in (
        ("mean", {"outer": "nesterov(lr=0.7, momentum=0.9)"}),
        ("ef(topk(density=0.2))", {"delay": 2, "catch_up": "add"}),
        ("ef(topk(density=0.2))", {"keep": "cpu", "fragments": 2, "bucket_mb": BUCKET}),
    ):
        nets = [Odd(), Odd()]
        for block in nets[0].blocks:
            fully_shard(block, mesh=mesh["shard"])
        fully_shard(nets[0], mesh=mesh["shard"])
        optimizers = [torch.optim.AdamW(net.parameters(), lr=0.01) for net in nets]
        between = mesh["replicate"]
        local = gw.local(nets[0], optimizers[0], every=4, exchange=exchange, group=between, **options)
        assert local.part == (rank % 2, 2)
        other = gw.local(nets[1], optimizers[1], every=4, exchange="mean", group=between.get_group(), **options)
        for step in range(10):
            x = batch(step, rank)
            for net, optimizer in zip(nets, optimizers, strict=True):
                net(x).square().mean().backward()
                if net is nets[1]:
                    average(net, inside)
                optimizer.step()
                optimizer.zero_grad()
        before, saved = full(nets[0]), local.state_dict()
        with torch.no_grad():
            nets[0](batch(9, rank))
            assert local.finish()
            assert other.finish()
            outs = [net(batch(11, 0)) for net in nets]
        after = full(nets[0])
        assert all(torch.equal(model, after) for model in everywhere(after)), exchange
        assert all(torch.equal(out, outs[0]) for out in everywhere(outs[0])), exchange
        assert not torch.equal(after, before)
        if exchange == "mean":
            torch.testing.assert_close(after, flat(nets[1]), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-6)
        assert local.step == other.step
        local.load_state_dict(saved)
        assert torch.equal(full(nets[0]), before)
        local.close()
        other.close()
    refuses_mixed_shards(mesh)


def refuses_mixed_shards(mesh: DeviceMesh) -> None:
    net = Odd()
    fully_shard(net, mesh=mesh["shard"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"ranks \[., .\] of the group hold different parts of"):
        gw.local(net, optimizer)
    with pytest.raises(ValueError, match="group must be a mesh of one dimension"):
        gw.local(net, optimizer, group=mesh)
    with pytest.raises(TypeError, match="a process group or a one-dimensional mesh, got \\[0, 1\\]"):
        gw.local(net, optimizer, group=[0, 1])


class Odd(nn.Module):
    """A net with dimensions that two shards cannot split evenly, and one that leaves nothing for the second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(5, 11), nn.Linear(11, 3)])
        self.last = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x).tanh()
        return self.last(x)


def average(net: nn.Module, group: dist.ProcessGroup) -> None:
    for param in net.parameters():
        dist.all_reduce(param.grad, group=group)
        param.grad /= dist.get_world_size(group)


def full(net: nn.Module) -> Tensor:
    """Return the full tensors of a sharded model, as every rank sees them."""
    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return torch.cat([param.full_tensor().detach().flatten() for param in net.parameters()])


def models_of(saved: dict, net: nn.Module) -> Tensor:
    return torch.cat([saved["memory"][name]["params"].flatten() for name, _ in net.named_parameters()])


def dies() -> dict[str, object]:
    """Rank 2 of three ends in an exchange; the others soon have an error, and continue as two from where they were."""
    rank = dist.get_rank()
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    local = gw.local(net, optimizer, every=4, exchange="ef(topk(density=0.1))")
    steps(net, optimizer, 0, 7, rank)
    if rank == 2:
        gather = local.process.begin

        def end(ask: object) -> Callable[[], Tensor]:
            if local.ledger.entries["AllGather"].calls < 3:
                return gather(ask)
            os.kill(os.getpid(), signal.SIGKILL)
            return gather(ask)

        local.process.begin = end
    loss(net, 7, rank).backward()
    before = local.state_dict()
    started = time.monotonic()
    with pytest.raises((RuntimeError, ValueError)):
        optimizer.step()
    took = time.monotonic() - started
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="cannot go on after an earlier failure"):
        local.finish()
    for name, parts in before["memory"].items():
        unit = local.engine.all_units()[0]
        assert torch.equal(unit.layout.cut(unit.anchor)[name], parts["anchor"])
        assert torch.equal(unit.layout.cut(unit.memory["error"])[name], parts["memory.error"])
    local.regroup(dist.new_group([0, 1], use_local_synchronization=True))
    steps_of_two(net, optimizer, local, rank)
    return {"seconds": took, "steps": local.local_steps}


def steps_of_two(net: nn.Module, optimizer: torch.optim.Optimizer, local: gw.Local, rank: int) -> None:
    steps(net, optimizer, 8, 13, rank)
    assert local.finish()
    digest = flat(net)
    found = [torch.empty_like(digest) for _ in range(2)]
    dist.all_gather(found, digest, group=local.process.group)
    assert torch.equal(found[0], found[1])
    local.close()


def saves_and_is_killed(until: str) -> dict[str, object]:
    """Save every round. In the exchange after step `until` rank 1 is killed; a later call continues
    from the last save.
    """
    rank, folder = dist.get_rank(), Path(os.environ["SAVES"])
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    local = gw.local(net, optimizer, every=5)
    file = folder / f"{rank}.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        local.load_state_dict(saved["local"])
        optimizer.load_state_dict(saved["optimizer"])
    began = local.local_steps
    for step in range(began, 20):
        loss(net, step, rank).backward()
        if rank == 1 and str(step) == until:
            local.process.begin = lambda ask: os.kill(os.getpid(), signal.SIGKILL)
        optimizer.step()
        optimizer.zero_grad()
        if local.local_steps % 5 == 0:
            torch.save({"local": local.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"{rank}.new")
            os.replace(folder / f"{rank}.new", file)
    local.close()
    return {"began": began, "ended": local.local_steps, "model": flat(net).tolist()}


def one_after_the_other(*names: str) -> dict[str, object]:
    """Run several stories on the same ranks, because a start takes longer than each of them."""
    return {name: globals()[name]() for name in names}


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
