"""The functions that ranks run in the stories of sharded models: two islands of two shards each."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from ranks import main, one_by_one, roundtrip
from sharded_net import STEPS, AtTheStep, Block, Case, Net, held, sharded, train
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import gradwire as gw
from gradwire.transport.group import own_group
from gradwire.transport.process import Process

CAP = 0.0003
"""Megabytes of a unit: some groups of FSDP2 share one, and some need two."""

BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)


def by_step(step: int, _: int) -> int:
    return step % 2


def by_island(step: int, rank: int) -> int:
    return (step + rank // 2) % 2


CASES = {
    "plain": Case(),
    "accumulated": Case(micro=3),
    "accumulated, every pass reduced": Case(micro=3, each=True, syncs=3),
    "clipped": Case(clip=0.01),
    "unused by step": Case(branch=by_step),
    "unused by step, found": Case(branch=by_step, find_unused=True, clip=0.01),
    "unused by island": Case(branch=by_island, find_unused=True),
    "unused by island, reduced": Case(branch=by_island, scatter_unused=True),
    "an unused group by island": Case(branch=by_island, apart=True, find_unused=True, alone=True),
    "an unused group by island, late": Case(branch=by_island, apart=True, alone=True),
    "tied": Case(tied=True),
    "checkpoints": Case(recompute="plain"),
    "reentrant checkpoints": Case(recompute="reentrant"),
    "unused, checkpoints": Case(recompute="plain", branch=by_step, find_unused=True),
    "uneven": Case(width=5, hidden=11),
    "empty shards": Case(width=5, hidden=1),
    "bf16, reduced in fp32": Case(policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)),
    "bf16": Case(policy=BF16),
    "offloaded": Case(offload=CPUOffloadPolicy(pin_memory=False)),
}

ROUNDED = {"bf16": 1e-3, "accumulated, every pass reduced": 1e-7}
"""Largest differences to native HSDP. It adds islands in bf16, whose 8 bits round a gradient of 1 by 2e-3, times a rate
of 0.05 in each of a few steps; gradwire adds after the cast. A mean of two means and one more gradient is rounded
otherwise than the mean of three sums."""


def mesh_of_islands() -> DeviceMesh:
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))


def attached(net: nn.Module, case: Case, mesh: DeviceMesh, spec: str) -> gw.Hook:
    return gw.attach(net, spec, seed=3, bucket_mb=CAP, group=mesh["replicate"], find_unused_parameters=case.find_unused)


def far(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the largest difference on any rank."""
    worst = torch.tensor([max([(a - b).abs().max().item() for a, b in zip(one, other, strict=True) if a.numel()])])
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return worst.item()


def every_case() -> dict[str, float]:
    """`mean` equals native HSDP; error feedback and shifts equal the same exchange made after backward."""
    one_by_one()
    mesh = mesh_of_islands()
    peers = Process(own_group(mesh["replicate"].get_group(), torch.device("cpu")))
    return {name: one_case(name, case, mesh, peers) for name, case in CASES.items()}


def one_case(name: str, case: Case, mesh: DeviceMesh, peers: Process) -> float:
    native = None if case.alone else train(sharded(told_of_unused(case), mesh), case)
    net = sharded(case, mesh["shard"])
    with attached(net, case, mesh, "mean") as hook:
        layouts = hook.layouts
        assert len(layouts) >= 2 or name == "empty shards"
        assert hook.part == (mesh["shard"].get_local_rank(), 2)
        averaged = train(net, case)
        difference = 0.0 if native is None else far(averaged, native)
        assert hook.step == STEPS * case.syncs, (name, hook.step)
    assert difference <= ROUNDED.get(name, 0.0), (name, difference)
    if case.syncs > 1:
        return difference
    for spec in ("ef(topk(density=0.2))", "diana(randk(density=0.3))"):
        net = sharded(case, mesh["shard"])
        with attached(net, case, mesh, spec) as hook:
            overlapped = train(net, case)
            assert hook.step == STEPS
            assert hook.ledger.entries["AllGather"].calls == STEPS * len(layouts), name
        net = sharded(case, mesh["shard"])
        wanted = train(net, case, at_the_step=AtTheStep(net, layouts, spec, peers, mesh["shard"], seed=3))
        assert far(overlapped, wanted) == 0.0, (name, spec)
        assert islands_agree(overlapped, mesh), (name, spec)
    return difference


def told_of_unused(case: Case) -> Case:
    """Native HSDP must be told if islands use different parameters; if they use different groups, it
    would mix them up.
    """
    return replace(case, scatter_unused=case.branch is by_island)


def islands_agree(mine: list[Tensor], mesh: DeviceMesh) -> bool:
    flat = torch.cat([part.flatten() for part in mine])
    first = flat.clone()
    dist.broadcast(first, dist.get_process_group_ranks(mesh["replicate"].get_group())[0], mesh["replicate"].get_group())
    return torch.equal(first, flat)


def nothing_held() -> None:
    """A rank whose shards are all empty takes part, and sends no more than it must."""
    mesh = mesh_of_islands()
    for spec in ("mean", "ef(topk(density=0.2))", "diana(randk(density=0.3))", "ef(deft(density=0.2))"):
        net = nn.Linear(5, 1)
        fully_shard(net, mesh=mesh["shard"])
        with gw.attach(net, spec, group=mesh["replicate"]) as hook:
            for _ in range(2):
                net(torch.ones(3, 5)).sum().backward()
            assert hook.step == 2
            hook.load_state_dict(hook.state_dict())


def compiled() -> None:
    """Compiled blocks, and a compiled model, keep the model's names."""
    mesh, spec = mesh_of_islands(), "ef(topk(density=0.2))"
    nets = [sharded(Case(compiled=compiled), mesh["shard"]) for compiled in (False, True, False)]
    nets[2] = torch.compile(nets[2], backend="aot_eager")
    hooks = [attached(net, Case(), mesh, spec) for net in nets]
    assert hooks[0].layouts == hooks[2].layouts
    ended = [train(net, Case()) for net in nets]
    assert far(ended[1], ended[0]) == far(ended[2], ended[0]) == 0.0
    assert [hook.step for hook in hooks] == [STEPS] * 3
    for hook in hooks:
        hook.close()


class Parallel(nn.Module):
    """A block under tensor and sequence parallelism. The norm is whole on every rank, and its gradient is a partial
    sum.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.block = nn.LayerNorm(8), Block(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.norm(x))


def tensor_parallel() -> None:
    """In two islands of two tensor-parallel ranks, tensors that both ranks of an island hold stay the same on both."""
    mesh, rank = mesh_of_islands(), dist.get_rank()
    for spec in ("mean", "ef(topk(density=0.2))", "ef(deft(density=0.2))", "diana(randk(density=0.3))"):
        nets = [parallel(mesh["shard"]) for _ in range(2)]
        with gw.attach(nets[0], spec, bucket_mb=CAP, group=mesh["replicate"]) as hook:
            optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
            for step in range(STEPS):
                generator = torch.Generator().manual_seed(10 * step + rank // 2)  # one batch an island
                x = DTensor.from_local(
                    torch.randn(6, 8, generator=generator)[3 * (rank % 2) :][:3], mesh["shard"], [Shard(0)]
                )
                for net, optimizer in zip(nets, optimizers, strict=True):
                    net(x).full_tensor().square().sum().backward()
                    if net is nets[1]:
                        average(net, mesh)
                    optimizer.step()
                    optimizer.zero_grad()
            assert hook.step == STEPS
            if spec == "mean":
                assert far(held(nets[0]), held(nets[1])) == 0.0
            norm = held(nets[0].norm)
            assert islands_agree(held(nets[0]), mesh)
        for part in norm:
            both = [torch.empty_like(part) for _ in range(2)]
            dist.all_gather(both, part, mesh["shard"].get_group())
            assert torch.equal(*both), spec


def tensor_parallel_rounds() -> None:
    """The same under local steps."""
    mesh, rank = mesh_of_islands(), dist.get_rank()
    for spec in ("mean", "ef(topk(density=0.05))", "ef(deft(density=0.2))"):
        net = parallel(mesh["shard"])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with gw.local(net, optimizer, every=2, exchange=spec, outer="sgd", group=mesh["replicate"]):
            for step in range(5):
                generator = torch.Generator().manual_seed(10 * step + rank // 2)
                x = torch.randn(6, 8, generator=generator)[3 * (rank % 2) :][:3]
                net(DTensor.from_local(x, mesh["shard"], [Shard(0)])).full_tensor().square().sum().backward()
                for param in net.parameters():
                    param.grad = param.grad.redistribute(placements=param.placements)
                optimizer.step()
                optimizer.zero_grad()
        assert islands_agree(held(net), mesh)
        for part in held(net.norm):
            both = [torch.empty_like(part) for _ in range(2)]
            dist.all_gather(both, part, mesh["shard"].get_group())
            assert torch.equal(*both), spec


def parallel(mesh: DeviceMesh) -> Parallel:
    plan = {
        "norm": SequenceParallel(sequence_dim=0),
        "block.up": ColwiseParallel(),
        "block.down": RowwiseParallel(output_layouts=Shard(0), use_local_output=False),
    }
    return parallelize_module(Parallel(), mesh, plan)


def average(net: nn.Module, mesh: DeviceMesh) -> None:
    """Make a plain all-reduce between islands."""
    for param in net.parameters():
        param.grad = param.grad.redistribute(placements=param.placements)
        dist.all_reduce(param.grad.to_local(), group=mesh["replicate"].get_group())
        param.grad.to_local().div_(2)


def resumed() -> None:
    """Islands that start differently agree after attach; a checkpoint has its shards' shapes and
    resumes bit for bit.
    """
    mesh, case = mesh_of_islands(), Case(width=5, hidden=11)
    for spec in ("ef(topk(density=0.2))", "diana(randk(density=0.3))"):
        once, twice = (sharded(case, mesh["shard"], seed=dist.get_rank() // 2) for _ in range(2))
        with attached(once, case, mesh, spec) as hook:
            assert islands_agree(held(once), mesh)
            train(once, case, range(STEPS))
            wanted = train(once, case, range(STEPS, 2 * STEPS))
        with attached(twice, case, mesh, spec) as hook:
            train(twice, case, range(STEPS))
            saved = roundtrip(hook.state_dict(), dist.get_rank())
        shapes = {name: param.to_local().shape for name, param in twice.named_parameters()}
        assert all(part.shape == shapes[name] for name, parts in saved["memory"].items() for part in parts.values())
        with attached(twice, case, mesh, spec) as hook:
            hook.load_state_dict(saved)
            assert far(train(twice, case, range(STEPS, 2 * STEPS)), wanted) == 0.0
            assert hook.step == 2 * STEPS
        with attached(twice, case, mesh, spec) as hook:
            other = {**saved, "rank": saved["rank"]}
            other["memory"] = {name: {k: v.flatten()[:-1] for k, v in m.items()} for name, m in saved["memory"].items()}
            with pytest.raises(ValueError, match="the checkpoint is of another model"):
                hook.load_state_dict(other)


def sums() -> None:
    """`reduce="sum"` is the mean times the number of workers, at every door."""
    mesh, case = mesh_of_islands(), Case()
    for group, make in ((mesh["replicate"], lambda: sharded(case, mesh["shard"])), (None, lambda: Net(case))):
        grads = []
        for reduce in ("mean", "sum"):
            net = make()
            with gw.attach(net, "ef(topk(density=0.2))", group=group, reduce=reduce) as hook:
                net(torch.full((3, 5), 1.0 + dist.get_rank()), None).square().sum().backward()
                size = hook.process.size
            grads.append([getattr(param.grad, "_local_tensor", param.grad) for param in net.parameters()])
        assert all(torch.equal(mean * size, total) for mean, total in zip(*grads, strict=True))
    with pytest.raises(ValueError, match=r"another reduce: rank . with (mean|sum), rank . with (mean|sum)"):
        gw.attach(Net(case), "mean", reduce="sum" if dist.get_rank() else "mean")
    with pytest.raises(ValueError, match="reduce must be 'mean' or 'sum', got 'max'"):
        gw.attach(Net(case), "mean", reduce="max")


def refusals() -> None:
    """What cannot be right is an error in one sentence on every rank, and no rank hangs."""
    mesh, case, rank = mesh_of_islands(), Case(), dist.get_rank()

    def refused(words: str, net: nn.Module, error: type[Exception] = ValueError, **options: object) -> None:
        with pytest.raises(error, match=words):
            gw.attach(net, "mean", **options)

    refused(
        r"is averaged over ranks \[\d, \d\] already.*mesh=mesh\['shard'\]", sharded(case, mesh), group=mesh["replicate"]
    )
    refused(r"ranks \[\d, \d\] of the group hold different parts of '.*'; give", sharded(case, mesh["shard"]))
    refused(r"ranks \[\d, \d\] of the group hold", sharded(case, mesh["shard"]), group=mesh["shard"])
    refused("a mesh of one dimension, .* got one of 2 dimensions", sharded(case, mesh["shard"]), group=mesh)
    refused("group must be a process group or a one-dim.* got 'world'", Net(case), TypeError, group="world")
    refused(
        "is wrapped in FullyShardedDataParallel", FullyShardedDataParallel(Net(case), device_id=torch.device("cpu"))
    )
    crossed = [dist.new_group(ranks) for ranks in ((0, 3), (1, 2))][rank in (1, 2)]
    refused("another part of the model: rank", sharded(case, mesh["shard"]), group=crossed)
    gpus = dist.new_group(backend="cuda:gloo")
    refused("the parameters are on cpu, and the process group has no backend for such tensors", Net(case), group=gpus)

    rows = nn.Embedding(5, 3, sparse=True)
    with (
        gw.attach(rows, "mean"),
        pytest.raises(RuntimeError, match="exchanges dense gradients, and that of 'weight' is sparse"),
    ):
        rows(torch.tensor([1])).sum().backward()

    reentrant = Case(recompute="reentrant", branch=by_step, find_unused=True)
    late = sharded(reentrant, mesh["shard"])
    hook = attached(late, reentrant, mesh, "mean")
    with pytest.raises(RuntimeError, match=r"came after the others were exchanged.*use_reentrant=False"):
        train(late, reentrant)
    hook.close()


def compiled_autograd() -> None:
    """Compiled autograd is refused, because it has no end of backward."""
    mesh = mesh_of_islands()
    for net in (nn.Linear(5, 5), fully_shard(nn.Linear(5, 5), mesh=mesh["shard"])):  # larger ones compile for long
        with gw.attach(net, "mean", group=mesh["replicate"]):
            loss = net(torch.ones(2, 5, requires_grad=True)).sum()
            with (
                torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")),
                pytest.raises(RuntimeError, match="compiled autograd has no end of backward"),
            ):
                loss.backward()


def silence() -> None:
    """If the optimizer steps without any gradient, there is one warning; there is none if it only creates its state."""
    complaints: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: complaints.append(record.getMessage())
    logging.getLogger("gradwire").addHandler(listener)
    net = Net(Case())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gw.attach(net, "mean") as hook:
        for param in net.parameters():
            param.grad = torch.zeros_like(param)
        optimizer.step()
        assert not complaints
        for _ in range(2):
            with hook.no_sync():
                net(torch.ones(2, 5), None).sum().backward()
            optimizer.step()
    assert len(complaints) == 1
    assert complaints[0].endswith("gradwire has received no gradient: nothing is exchanged")
    logging.getLogger("gradwire").removeHandler(listener)


def others() -> None:
    """Run all other stories in one start."""
    for life in (
        nothing_held,
        tensor_parallel,
        tensor_parallel_rounds,
        resumed,
        sums,
        refusals,
        silence,
        compiled,
        compiled_autograd,
    ):
        life()


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
