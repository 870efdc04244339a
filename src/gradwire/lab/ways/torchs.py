"""torch's own methods of averaging, and no averaging, behind the counters of `ways.wrapped`.

This file does not import annotations from __future__, because DDP inspects a hook's annotations as objects.
"""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from gradwire.lab.ways import NONE, powersgd_rank
from gradwire.layout import bytes_of
from gradwire.transport.group import compare
from gradwire.transport.process import Process

DENSE_STEPS = 2
"""Dense steps before torch's PowerSGD begins: the fewest that it allows with error feedback."""


def wrap(model: nn.Module, **cap: Any) -> DistributedDataParallel:
    """Wrap a model in DDP that sends gradients only; buffers, such as batch normalisation's statistics, stay local."""
    start_alike(model)
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True, init_sync=False, **cap)


def start_alike(model: nn.Module) -> None:
    """Give every rank rank 0's model, which is sent only if ranks differ; DDP would always send it."""
    tensors = cast(dict[str, Tensor], model.state_dict())
    digest = hashlib.blake2b()
    for name, tensor in tensors.items():
        digest.update(repr((name, tensor.shape, tensor.dtype)).encode())
        digest.update(bytes_of(tensor).numpy())  # pyright: ignore
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    if compare(Process(cast(dist.ProcessGroup, dist.group.WORLD)), device, digest.hexdigest()) is not None:
        for tensor in tensors.values():
            dist.broadcast(tensor, 0)


def on_a_ring(nbytes: float) -> float:
    """Bytes that a rank sends in a ring all-reduce of `nbytes` bytes."""
    ranks = dist.get_world_size()
    return 2 * (ranks - 1) / ranks * nbytes


class Plain:
    """A model trained by one of torch's own methods; all of its time beside compute counts as the network's."""

    period = 1

    def __init__(self, model: nn.Module, name: str, rehearsed: bool) -> None:
        self.name, self.steps, self.rehearsed = name, 0, rehearsed
        trained = [p for p in model.parameters() if p.requires_grad]
        self.nbytes, self.numel = sum(int(p.nbytes) for p in trained), sum(p.numel() for p in trained)
        self.low_rank: PowerSGDState | None = None
        if rank := powersgd_rank(name):
            self.model = wrap(model, bucket_cap_mb=self.nbytes / 2**20 + 1)
            self.low_rank = PowerSGDState(None, rank, start_powerSGD_iter=DENSE_STEPS)
            self.model.register_comm_hook(self.low_rank, _rehearsed if rehearsed else powerSGD_hook)
        else:
            self.model = wrap(model)
        if name == "fp16":
            self.model.register_comm_hook(None, fp16_compress_hook)

    def averaging(self) -> AbstractContextManager[None]:
        """Average gradients, unless the method is "none"."""
        return self.quiet() if self.name == NONE else nullcontext()

    def quiet(self) -> AbstractContextManager[None]:
        """Do not average gradients."""
        return self.model.no_sync()

    def stepped(self) -> None:
        """Count a step."""
        self.steps += 1

    def finish(self) -> None:
        """Do nothing: all ranks hold the same model after every step."""

    def sent(self) -> float:
        """Bytes sent so far by ring all-reduces."""
        dense = {NONE: 0.0, "fp16": 0.5}.get(self.name, 1.0) * self.nbytes * self.steps
        if self.low_rank is not None:  # torch's count of elements: P, Q and uncompressed tensors
            reduced = int(self.low_rank.total_numel_after_compression)
            first = 0 if self.rehearsed else self.numel * min(self.steps, DENSE_STEPS)
            dense = (reduced + first) * self.nbytes / self.numel
        return on_a_ring(dense)

    def selecting(self) -> float:
        """Always 0: all time beside compute counts as the network's."""
        return 0.0

    def optimizing(self) -> float:
        """Always 0: gradients are averaged before the optimizer's step."""
        return 0.0

    def collectives(self) -> list[float]:
        """An empty list: torch's collectives are not timed."""
        return []

    def choice(self) -> str:
        """The method's name."""
        return self.name

    def state_dict(self) -> dict[str, Any]:
        """The method's name, as torch's methods have no state of their own that can be saved."""
        return {"baseline": self.name}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load nothing; ValueError for another method's checkpoint."""
        if saved != self.state_dict():
            raise ValueError(f"the checkpoint is of {saved.get('exchange', saved)}, this run is {self.name}")

    def close(self) -> None:
        """Do nothing."""


def silent(state: None, bucket: GradBucket) -> Future[Tensor]:
    """A DDP hook that averages nothing, which shows a step's time without a network."""
    return _as_it_is(bucket)


def _rehearsed(state: PowerSGDState, bucket: GradBucket) -> Future[Tensor]:
    """torch's PowerSGD hook, but without communication in the dense steps before it begins."""
    if state.iter >= DENSE_STEPS:
        return powerSGD_hook(state, bucket)
    state.maybe_increase_iter(bucket)
    return _as_it_is(bucket)


def _as_it_is(bucket: GradBucket) -> Future[Tensor]:
    done: Future[Tensor] = Future()
    done.set_result(bucket.buffer())
    return done
