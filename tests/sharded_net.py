"""What the stories of sharded models train: a net with every oddity, FSDP2 around it, and an exchange at the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

import gradwire as gw
from gradwire.memory.guard import Guard
from gradwire.transport.process import Process

STEPS = 3


@dataclass(frozen=True)
class Case:
    """One way to train.

    width, hidden: of the residual stream and of a block. tied: the last layer's weight is the one before's. recompute:
    "plain" or "reentrant" checkpoints. branch: which of two blocks a (step, rank) uses; None for both. apart: each
    of them is a group of its own. find_unused, scatter_unused: what attach, and what FSDP2, are told about it. micro:
    backward passes a step. each: FSDP2 reduces each of them. clip: the norm. policy, offload: FSDP2's. compiled: each
    block. syncs: exchanges a step. alone: native HSDP cannot do this.
    """

    width: int = 8
    hidden: int = 12
    tied: bool = False
    recompute: str = ""
    branch: Callable[[int, int], int] | None = None
    apart: bool = False
    find_unused: bool = False
    scatter_unused: bool = False
    micro: int = 1
    each: bool = False
    clip: float = 0.0
    policy: MixedPrecisionPolicy = field(default_factory=MixedPrecisionPolicy)
    offload: OffloadPolicy = field(default_factory=OffloadPolicy)
    compiled: bool = False
    syncs: int = 1
    alone: bool = False


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).tanh())


class Fork(nn.Module):
    """Run one of two blocks, or both."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ways = nn.ModuleList(Block(width, hidden) for _ in range(2))

    def forward(self, x: Tensor, which: int | None) -> Tensor:
        for number, way in enumerate(self.ways):
            if which is None or which == number:
                x = way(x)
        return x


class Net(nn.Module):
    """A net with root layers at both ends, two blocks that are always used, and two that may be unused."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.case = case
        self.first = nn.Linear(5, case.width)
        self.blocks = nn.ModuleList(Block(case.width, case.hidden) for _ in range(2))
        self.fork = Fork(case.width, case.hidden)
        self.last, self.head = nn.Linear(case.width, case.width), nn.Linear(case.width, case.width)
        if case.tied:
            self.head.weight = self.last.weight

    def forward(self, x: Tensor, which: int | None) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            if self.case.recompute:
                x = checkpoint(block, x, use_reentrant=self.case.recompute == "reentrant")
            else:
                x = block(x)
        return self.head(self.last(self.fork(x, which)).tanh())


def sharded(case: Case, mesh: DeviceMesh, seed: int = 0) -> Net:
    """Make a net whose blocks are separate FSDP2 groups."""
    net = Net(case, seed)
    groups = [*net.blocks, *(net.fork.ways if case.apart else [net.fork])]
    for block in groups:
        if case.compiled and isinstance(block, Block):
            block.compile(backend="aot_eager")
        fully_shard(block, mesh=mesh, mp_policy=case.policy, offload_policy=case.offload)
    fully_shard(net, mesh=mesh, mp_policy=case.policy, offload_policy=case.offload)
    if case.scatter_unused:
        net.set_reduce_scatter_unused_params(True)
    return net


def train(
    net: nn.Module, case: Case, steps: range = range(STEPS), at_the_step: Callable[[], None] = lambda: None
) -> list[Tensor]:
    """Take some steps on this rank's data, and return this rank's part of the parameters."""
    rank = dist.get_rank()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in steps:
        for micro in range(case.micro):
            if case.micro > 1 and not case.each:
                net.set_requires_gradient_sync(micro == case.micro - 1)
            generator = torch.Generator().manual_seed(1000 * step + 100 * micro + rank)
            x = torch.randn(6, 5, generator=generator).to(case.policy.param_dtype or torch.float32)
            which = case.branch(step, rank) if case.branch else None
            (net(x, which).float() - rank).square().mean().backward()
        at_the_step()
        if case.clip:
            nn.utils.clip_grad_norm_(net.parameters(), case.clip)
        optimizer.step()
        optimizer.zero_grad()
    return held(net)


def held(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().to_local().clone() for parameter in net.parameters()]


class AtTheStep:
    """Exchange all shards at once when backward is over, written without an engine."""

    def __init__(
        self, net: nn.Module, layouts: list[gw.Layout], spec: str, peers: Process, island: DeviceMesh, seed: int
    ) -> None:
        self.params, self.process, self.island = dict(net.named_parameters()), peers, island.get_group()
        self.exchange, self.seed, self.step = Guard(gw.parse(spec)), seed, 0
        self.units = [(layout, self.exchange.init(layout)) for layout in layouts]

    def __call__(self) -> None:
        unused = [param for param in self.params.values() if param.grad is None]
        for param in unused:
            param.grad = torch.zeros_like(param.detach())
        for layout, state in self.units:
            turn = gw.Turn(self.process.rank, self.process.size, self.step, layout, self.seed)
            x = torch.cat([self.params[name].grad.to_local().flatten() for name in layout.names])
            mean = self.process.run(self.exchange(x, state, turn)).mean.dense()
            for name, part in layout.cut(mean).items():
                self.params[name].grad.to_local().copy_(part)
        for param in unused:
            used = param.grad.to_local().any().float()
            dist.all_reduce(used, group=self.island)
            if not used:
                param.grad = None
        self.step += 1
