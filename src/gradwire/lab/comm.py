"""How a run averages gradients: gradwire's hook or one of torch's own ways, with the same counters."""

from __future__ import annotations

from typing import Any, Protocol

from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from gradwire.ddp import Hook, attach
from gradwire.lab.job import Job


class Comm(Protocol):
    """Counters of one rank, since the start."""

    def sent(self) -> int:
        """Bytes put on this rank's link, counted from tensors."""
        ...

    def selecting(self) -> float:
        """Seconds spent on gradients outside the network."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        ...

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint; ValueError if it does not fit."""
        ...

    def close(self) -> None:
        """End threads."""
        ...


def communicate(ddp: DistributedDataParallel, job: Job, ranks: int) -> Comm:
    """Set up the job's way of averaging."""
    exchange = job.parsed
    if exchange is not None:
        return Compressed(attach(ddp, exchange, seed=job.seed, bucket_mb=job.bucket_mb))
    return Plain(ddp, job.exchange, ranks)


class Compressed:
    """gradwire's hook."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.state_dict, self.load_state_dict, self.close = hook.state_dict, hook.load_state_dict, hook.close

    def sent(self) -> int:
        """The ledger's traffic."""
        return self.hook.ledger.traffic

    def selecting(self) -> float:
        """The hook's seconds without the ledger's."""
        return self.hook.seconds - self.hook.ledger.seconds


class Plain:
    """torch's own all-reduce, in float32 or float16. It has no memory, and hides its time in the network."""

    def __init__(self, ddp: DistributedDataParallel, name: str, ranks: int) -> None:
        self.name, self.steps = name, 0
        share = 0.5 if name == "fp16" else 1.0
        ring = 2 * (ranks - 1) / ranks
        self.step_bytes = sum(int(p.nbytes) for p in ddp.parameters() if p.requires_grad) * share * ring
        if name == "fp16":
            ddp.register_comm_hook(None, fp16_compress_hook)

    def sent(self) -> int:
        """The gradients' bytes, times the steps, on a ring."""
        return round(self.step_bytes * self.steps)

    def selecting(self) -> float:
        """None: what is left of a step beside compute is the network's."""
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """The name only."""
        return {"baseline": self.name}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Nothing to load, but refuse another method's checkpoint."""
        if saved != self.state_dict():
            raise ValueError(f"the checkpoint is of {saved.get('exchange', saved)}, this run is {self.name}")

    def close(self) -> None:
        """Nothing to end."""
