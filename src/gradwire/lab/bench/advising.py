"""Advice on one of the benchmark's workloads, on processes of this machine or as one rank of those of torchrun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradwire.advice import HALF, KINDS, Errand, Link, Pace, Verdict, Watch, dense, fp16, judge, probe
from gradwire.advice.crowd import neighbour
from gradwire.advice.pace import trained
from gradwire.advice.rounds import LocalRound, local_rounds
from gradwire.advice.survey import agreed, agreed_rounds, mean, sound, survey
from gradwire.advice.verdict import weigh
from gradwire.lab import remote
from gradwire.lab.bench.advised import Advised, Probed, Question
from gradwire.lab.bench.race import Progress, race
from gradwire.lab.bench.racer import LEARNING_RATE, MOMENTUM
from gradwire.lab.bench.run import HERE, TIMEOUT_SECONDS
from gradwire.lab.bench.workloads import Workload, make
from gradwire.lab.ways.torchs import silent, wrap
from gradwire.transport.group import own_group
from gradwire.transport.process import Process

Listener: TypeAlias = Callable[[Probed | Progress], None]

STEPS = 12
"""Steps in which the pace is measured."""


def ask(question: Question, ranks: int, rate: str | None, listen: Listener = remote.ignore) -> Advised:
    """Ask on `ranks` processes, on links of `rate` or over loopback.

    Raises:
        gradwire.lab.remote.Failed: a rank refused its input (code 2) or died (1); the message is its own.
        gradwire.net.Refused: the kernel does not give links.
    """
    advised = remote.run(
        answer,
        question,
        ranks,
        name=f"advice on {question.model}",
        rate=rate,
        listen=listen,
        timeout=TIMEOUT_SECONDS,
        refused=(ValueError,),  # the other errors are of the user's own code, and need a traceback
    )
    return replace(advised, link=rate or "loopback")


def answer(question: Question, tell: remote.Tell) -> Advised:
    """Predict, and with `check` measure, on the ranks of the default group. Every rank calls it; the same on all.

    Raises:
        ValueError: a bad factory, spec or loss, in one sentence.
    """
    workload = make(question.model, dist.get_rank())
    process = Process(own_group(cast(dist.ProcessGroup, dist.group.WORLD), torch.device("cpu")))
    ddp = wrap(workload.model)
    ddp.register_comm_hook(None, silent)
    pace, gradients = _pace(ddp, workload, process)
    link = probe(process, torch.device("cpu"), (*KINDS, HALF))
    tell(Probed(pace.compute + pace.tail))
    verdict = _judge(ddp, question, gradients, pace, link, process)
    rounds = _rounds(workload.model, question, gradients, pace, link, process)
    process.close()
    # A link on which size made no difference has no bytes a second.
    alpha = {kind: cost.alpha for kind, cost in link.costs.items()}
    beta = {kind: cost.beta if cost.per_byte > 0 else None for kind, cost in link.costs.items()}
    measured = _check(question, verdict, process.size, tell) if question.check else {}
    compute = pace.compute + pace.tail
    return Advised(question.model, HERE, process.size, compute, alpha, beta, verdict, measured, rounds=rounds)


def _pace(ddp: DistributedDataParallel, workload: Workload, process: Process) -> tuple[Pace, list[Tensor]]:
    """A few steps in which nothing is averaged, as the benchmark makes them: their pace, and the last gradients."""
    found: list[Pace] = []
    optimizer = torch.optim.SGD(ddp.parameters(), LEARNING_RATE, MOMENTUM)
    watch = Watch(ddp, found.append, lambda seconds: mean(process, seconds), STEPS, silent=True)
    while not found:
        dist.barrier()
        optimizer.zero_grad(set_to_none=False)
        workload.loss(ddp).backward()
        if not found:
            optimizer.step()
    watch.close()
    params = trained(ddp)
    return found[0], sound({number: param.grad for number, param in enumerate(params)}, params)


def _judge(
    ddp: DistributedDataParallel,
    question: Question,
    gradients: list[Tensor],
    pace: Pace,
    link: Link,
    process: Process,
) -> Verdict:
    """Predict dense, fp16 and the candidates; the ranks agree on the mean of their predictions."""
    unit_bytes = question.bucket_mb * 2**20
    with neighbour(link.share < 1):
        work: dict[str, Sequence[Errand] | str] = {
            "dense": dense(ddp, pace, process.size),
            "fp16": fp16(ddp, pace, process.size),
            **survey(ddp, question.candidates, gradients, pace, process.size, unit_bytes),
        }
    return judge(agreed(process, torch.device("cpu"), weigh(pace, work, link)))


def _rounds(
    model: nn.Module, question: Question, gradients: list[Tensor], pace: Pace, link: Link, process: Process
) -> tuple[LocalRound, ...]:
    """Rehearse what local steps exchange; the ranks agree on the mean of their figures."""
    found = local_rounds(model, gradients, pace.compute + pace.tail, link, question.bucket_mb * 2**20, question.local)
    return tuple(agreed_rounds(process, torch.device("cpu"), found)) if found else ()


def _check(question: Question, verdict: Verdict, ranks: int, tell: remote.Tell) -> dict[str, float]:
    """Measured seconds of a step, of every method that could be predicted and of those beside."""
    known = tuple(method.name for method in verdict.methods if not method.refusal)
    raced = race(question.plan(known + question.beside).cell(ranks, None, HERE), tell)
    return {one.method: one.step for one in raced.measured}
