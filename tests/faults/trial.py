"""One model at one door, with accounts of what was owed to it and what it was given."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.distributed as dist
from ranks import loss, model, one_by_one, roundtrip
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import gradwire as gw

CAP = 0.004
"""Megabytes of a unit: the small net has three."""

METHODS = {
    "EF(Top-k)": "ef(topk(density=0.1))",
    "EF(DEFT)": "ef(deft(density=0.1))",
    "DIANA": "diana(randk(density=0.2))",
    "EF21": "ef21(topk(density=0.1))",
    "PowerSGD": "ef(powersgd(rank=2))",
    "mean": "mean",
}
DOORS = ("DDP", "bare", "FSDP2", "local")


@dataclass(frozen=True)
class Setting:
    """A door, a method's spec, a function that makes the model, its loss (net, step, rank), and whether parameters may
    be unused.

    joined: whether small units share messages; otherwise they are exchanged one after the other, as large ones are.
    """

    door: str
    spec: str
    make: Callable[[], nn.Module] = model
    loss: Callable[[nn.Module, int, int], Tensor] = loss
    unused: bool = False
    options: dict[str, object] = field(default_factory=dict)
    joined: bool = False


class Trial:
    """A model in training.

    `owed` is this rank's share of the mean of all vectors that workers contributed so far, as whole tensors of float64.
    `given` is what this rank's part of the model received for it. The vectors are gradients, or, with local steps,
    differences to the anchor.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting, self.rank, self.size = setting, dist.get_rank(), dist.get_world_size()
        self.shards = 2 if setting.door == "FSDP2" and self.size == 4 else 1
        self.net, self.shadow = setting.make(), setting.make()
        self.forward, self.between = self._wrapped()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.poison = False
        if setting.door == "local":
            self.optimizer.register_step_post_hook(lambda *_: self._note())
        self.hook = self._attached()
        self.owed = [torch.zeros(param.shape, dtype=torch.float64) for param in self.trained().values()]
        self.given = [torch.zeros_like(part, dtype=torch.float64) for part in self.parts()]
        self._theta: list[Tensor] = []
        self._anchor = self.parts()

    def _wrapped(self) -> tuple[nn.Module, DeviceMesh | None]:
        if self.setting.door == "DDP":
            unused = self.setting.unused
            return DistributedDataParallel(self.net, bucket_cap_mb=CAP, find_unused_parameters=unused), None
        if self.setting.door != "FSDP2":
            return self.net, None
        mesh = islands(self.size // self.shards, self.shards)
        for block in self.net.children():
            # Where weights are tied between blocks all must lie in one group.
            if len(list(block.parameters())) > 0 and not self.setting.unused:
                fully_shard(block, mesh=mesh["shard"])
        fully_shard(self.net, mesh=mesh["shard"])
        return self.net, mesh["replicate"]

    def _attached(self) -> gw.Hook:
        if not self.setting.joined:
            one_by_one()
        spec, options = self.setting.spec, {"seed": 5, "bucket_mb": CAP, **self.setting.options}
        if self.setting.door == "local":
            return gw.local(self.net, self.optimizer, every=2, exchange=spec, outer="sgd", **options)
        if self.setting.door != "DDP":
            options |= {"group": self.between, "find_unused_parameters": self.setting.unused}
        return gw.attach(self.forward, spec, **options)

    # ---- training

    def step(self, number: int, *, factor: float = 1.0, update: bool = True, counted: bool = True) -> None:
        """Take one step on this rank's data, with the loss times a factor. The update may be left out
        or not counted.
        """
        local = self.setting.door == "local"
        mine = None if local or not counted else self.gradients(number, factor)
        (self.setting.loss(self.forward, number, self.rank) * factor).backward()
        if mine is not None:
            self._book(mine, self.grads())
        self.finish(update=update or local)

    def finish(self, *, update: bool = True) -> None:
        """Take the optimizer's step, if there is one, and account for an exchange after it."""
        events, skipped = self.hook.step, self.hook.skipped
        if update:
            self.optimizer.step()
        self.optimizer.zero_grad()
        if self.setting.door == "local" and self.hook.step > events and self.hook.skipped == skipped:
            self._exchanged()
        elif self.poison:
            self._put(self._theta)

    def end_round(self) -> None:
        """With local steps, end the round now."""
        if self.setting.door == "local":
            self._theta = self.parts()
            assert self.hook.finish()
            self._exchanged()

    def _exchanged(self) -> None:
        after = self.parts()
        mine = [a.double() - theta.double() for a, theta in zip(self._anchor, self._theta, strict=True)]
        self._book(mine, [a.double() - now.double() for a, now in zip(self._anchor, after, strict=True)])
        self._anchor = after

    def _note(self) -> None:
        """Account for the local steps so far. Called before gradwire's own hook, which exchanges them."""
        self._theta = self.parts()
        if self.poison:
            self._put([torch.full_like(each, float("nan")) for each in self._theta])

    def gradients(self, number: int, factor: float = 1.0) -> list[Tensor]:
        """Return this rank's own gradients, computed on a plain copy of the model."""
        with torch.no_grad():
            for mine, param in zip(self.shadow.parameters(), self.net.parameters(), strict=True):
                mine.copy_(whole(param))
        params = [param for param in self.shadow.parameters() if param.requires_grad]
        value = self.setting.loss(self.shadow, number, self.rank) * factor
        found = torch.autograd.grad(value, params, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]

    def _book(self, mine: list[Tensor], given: list[Tensor]) -> None:
        for owed, each in zip(self.owed, mine, strict=True):
            owed += each.double() / self.size
        for total, each in zip(self.given, given, strict=True):
            total += each.double()

    # ---- what this rank holds

    def trained(self) -> dict[str, Tensor]:
        return {name: param for name, param in self.net.named_parameters() if param.requires_grad}

    def parts(self) -> list[Tensor]:
        """Return this rank's part of every trained parameter."""
        return [part(param.detach()).clone() for param in self.trained().values()]

    def grads(self) -> list[Tensor]:
        params = self.trained().values()
        return [torch.zeros_like(part(p.detach())) if p.grad is None else part(p.grad) for p in params]

    def cut(self, full: Tensor) -> Tensor:
        """Return this rank's part of a whole tensor."""
        if self.shards == 1:
            return full
        pieces, number = torch.chunk(full, self.shards), self.rank % self.shards
        return pieces[number] if number < len(pieces) else full[:0]

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for param, each in zip(self.trained().values(), values, strict=True):
                part(param.detach()).copy_(each)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the workers, in float64."""
        total = x.double()
        dist.all_reduce(total, group=None if self.between is None else self.between.get_group())
        return total / dist.get_world_size(None if self.between is None else self.between.get_group())

    # ---- an end, and another beginning

    def saved(self) -> dict[str, object]:
        """Return everything that a checkpoint holds, read back from a file."""
        hook = roundtrip(self.hook.state_dict(), self.rank)
        return copy.deepcopy({"net": self.parts(), "optimizer": self.optimizer.state_dict(), "hook": hook})

    def resumed(self, saved: dict[str, object]) -> Trial:
        """Make a new trial that continues from there."""
        other = Trial(self.setting)
        other._put(saved["net"])
        other.optimizer.load_state_dict(saved["optimizer"])
        other.hook.load_state_dict(saved["hook"])
        other._anchor = list(self._anchor)
        return other

    def close(self) -> None:
        self.hook.close()


@cache
def islands(many: int, shards: int) -> DeviceMesh:
    """Make the mesh once, because the groups of a mesh stay open."""
    return init_device_mesh("cpu", (many, shards), mesh_dim_names=("replicate", "shard"))


def part(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor:
    return x.detach().full_tensor() if isinstance(x, DTensor) else x.detach()
