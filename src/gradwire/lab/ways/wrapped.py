"""A model trained by any method of `lab.ways`, with the same counters for all of them."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer

from gradwire import Auto, Hook, attach
from gradwire.lab.ways import DENSE, NONE, is_torch, local_steps
from gradwire.lab.ways.local_steps import Apart
from gradwire.lab.ways.torchs import Plain, on_a_ring, wrap


class Comm(Protocol):
    """A model in training on one rank, and counters since the start."""

    @property
    def model(self) -> nn.Module:
        """The module whose forward to call."""
        ...

    @property
    def period(self) -> int:
        """Number of steps after which all ranks hold the same model again."""
        ...

    def averaging(self) -> AbstractContextManager[None]:
        """A context for a forward and backward pass that averages gradients, if the method does."""
        ...

    def quiet(self) -> AbstractContextManager[None]:
        """A context for a forward and backward pass that sends nothing, with any method."""
        ...

    def stepped(self) -> None:
        """Count a finished backward pass."""
        ...

    def finish(self) -> None:
        """Make all ranks hold the same model, if they do not already."""
        ...

    def sent(self) -> float:
        """Bytes that this rank has sent on its link, counted from tensors."""
        ...

    def selecting(self) -> float:
        """Seconds of selecting and encoding, outside the network."""
        ...

    def optimizing(self) -> float:
        """Seconds spent on averaging inside `optimizer.step`."""
        ...

    def collectives(self) -> list[float]:
        """Take the seconds of every collective since the last call, in order; empty for torch's own methods."""
        ...

    def choice(self) -> str | None:
        """The method in use; None while auto has not chosen yet."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint."""
        ...

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the state from a checkpoint; ValueError if it does not fit."""
        ...

    def close(self) -> None:
        """End background threads."""
        ...


def average(
    model: nn.Module,
    optimizer: Optimizer,
    way: str,
    seed: int = 0,
    bucket_mb: float | None = None,
    *,
    rehearsed: bool = False,
) -> Comm:
    """Prepare a model for training by a method: wrap it in DDP as the method needs, or attach local steps.

    Args:
        model: the bare model.
        optimizer: the optimizer of its parameters.
        way: the name of a method of `lab.ways`.
        seed: seeds compression.
        bucket_mb: MiB that gradwire's methods exchange together, by default DDP's 25. torch's dense and fp16 always
            use DDP's buckets, PowerSGD one.
        rehearsed: send nothing in PowerSGD's first dense steps. For benchmarks, which do not time these steps: on a
            slow link they take longer than all others.
    """
    if way == NONE or is_torch(way):
        return Plain(model, way, rehearsed)
    if (steps := local_steps(way)) is not None:
        return Apart(model, optimizer, steps, seed, **({} if bucket_mb is None else {"bucket_mb": bucket_mb}))
    cap = {} if bucket_mb is None or math.isinf(bucket_mb) else {"bucket_cap_mb": bucket_mb}
    ddp = wrap(model, **cap)
    return Compressed(ddp, attach(ddp, way, seed=seed, bucket_mb=bucket_mb), way)


class Compressed:
    """A DDP model with gradwire's hook, or auto's, which leaves averaging to DDP until it has chosen, or for good."""

    period = 1

    def __init__(self, ddp: DistributedDataParallel, hook: Hook | Auto, way: str) -> None:
        self.model, self.hook, self.way, self.dense_bytes = ddp, hook, way, 0.0
        self.state_dict, self.load_state_dict, self.close = hook.state_dict, hook.load_state_dict, hook.close

    def averaging(self) -> AbstractContextManager[None]:
        """A null context: the hook averages gradients."""
        return nullcontext()

    def quiet(self) -> AbstractContextManager[None]:
        """Do not average gradients."""
        return self.model.no_sync()

    def stepped(self) -> None:
        """Count the bytes that DDP has averaged itself; the hook counts the rest."""
        if self.choice() in (None, DENSE):
            self.dense_bytes += on_a_ring(sum(int(p.nbytes) for p in self.model.parameters() if p.requires_grad))

    def finish(self) -> None:
        """Do nothing: all ranks hold the same model after every step."""

    def sent(self) -> float:
        """The ledger's traffic plus the bytes that DDP has averaged itself."""
        return self.hook.ledger.traffic + self.dense_bytes

    def selecting(self) -> float:
        """The hook's seconds minus the ledger's, which are spent in collectives."""
        return self.hook.seconds - self.hook.ledger.seconds

    def optimizing(self) -> float:
        """Always 0: gradients are averaged before the optimizer's step."""
        return 0.0

    def collectives(self) -> list[float]:
        """Take the ledger's log since the last call; logging begins with the first call."""
        taken, self.hook.ledger.log = self.hook.ledger.log or [], []
        return taken

    def choice(self) -> str | None:
        """The spec, or what auto has chosen."""
        return self.hook.choice if isinstance(self.hook, Auto) else self.way
