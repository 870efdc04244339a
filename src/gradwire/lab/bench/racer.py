"""One method in the race: its own copy of the model, its optimizer, and the timings of its steps."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn

from gradwire.advice.pace import STEPS
from gradwire.lab import remote
from gradwire.lab.bench.workloads import Workload, check_finite, check_gradients
from gradwire.lab.ways import AUTO, NONE, powersgd_rank
from gradwire.lab.ways.torchs import DENSE_STEPS
from gradwire.lab.ways.wrapped import Comm, average

LEARNING_RATE, MOMENTUM = 1e-3, 0.9


@dataclass
class Timed:
    """This rank's figures of the timed steps.

    steps: seconds of each step. selecting: seconds on gradients outside the network. collectives: seconds of each
    collective in a step. sent, tx: bytes of all steps, by tensors and by the kernel. For a method that exchanges once a
    round, an entry is a round's figure divided by its steps.
    """

    steps: list[float] = field(default_factory=list[float])
    selecting: list[float] = field(default_factory=list[float])
    collectives: list[list[float]] = field(default_factory=list[list[float]])
    sent: float = 0.0
    tx: int = 0


class Racer:
    """A method on this rank. All ranks must create their racers in the same order."""

    def __init__(self, method: str, workload: Workload, bucket_mb: float) -> None:
        self.method, self.loss = method, workload.loss
        self.model = copy.deepcopy(workload.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), LEARNING_RATE, MOMENTUM)
        self.comm: Comm = average(self.model, self.optimizer, method, bucket_mb=bucket_mb, rehearsed=True)
        self.timed, self.last, self.spent = Timed(), 0.0, 0.0

    @property
    def warm_steps(self) -> tuple[int, int]:
        """Untimed steps before the first timed one: the fewest, and the number if steps are quick.

        DDP rebuilds its buckets after the first step. PowerSGD begins after a few dense steps, which send nothing here;
        auto's steps before its decision are dense; a round's exchange comes with its last step.
        """
        before = DENSE_STEPS if powersgd_rank(self.method) else STEPS if self.method == AUTO else self.comm.period - 1
        return before + 1, before + (2 if self.method == NONE else 3)

    @property
    def label(self) -> str:
        """The method's name in tables; auto's includes its choice."""
        return f"{AUTO} ({self.comm.choice()})" if self.method == AUTO else self.method

    def step(self) -> float:
        """Make one training step, which all ranks begin together; return its seconds on this rank."""
        dist.barrier()
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=False)
        with self.comm.averaging():
            self.loss(self.comm.model).backward()
        self.optimizer.step()
        self.last = time.perf_counter() - began
        self.comm.stepped()
        self.spent += self.last
        return self.last

    def warm(self) -> None:
        """Make an untimed step."""
        self.step()
        self.comm.collectives()

    def time(self, rounds: int) -> None:
        """Time `rounds` rounds; a round has `period` steps, which is 1 unless the method takes local steps."""
        dist.barrier()
        sent, tx, period = self.comm.sent(), remote.link_counters()[0], self.comm.period
        for _ in range(rounds):
            selecting = self.comm.selecting()
            self.timed.steps.append(sum(self.step() for _ in range(period)) / period)
            self.timed.selecting.append((self.comm.selecting() - selecting) / period)
            self.timed.collectives.append([seconds / period for seconds in self.comm.collectives()])
        dist.barrier()  # by now data left in the socket has been sent
        self.timed.sent += self.comm.sent() - sent
        self.timed.tx += remote.link_counters()[0] - tx

    def check(self) -> None:
        """After a step, raise ValueError if some trainable parameter has no gradient, or not a finite one."""
        check_gradients(self.model, self.method)

    def check_finite(self) -> None:
        """After a step, raise ValueError if a gradient is not finite, because such steps are skipped."""
        check_finite(self.model, self.method)


def size(model: nn.Module) -> tuple[int, int, int]:
    """Numbers of elements, tensors and bytes that are averaged."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return sum(p.numel() for p in trained), len(trained), sum(int(p.nbytes) for p in trained)
