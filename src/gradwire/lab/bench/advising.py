"""Advice on one of the benchmark's workloads, on processes of this machine or as one rank of a torchrun job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradwire.advice import HALF, KINDS, Link, Pace, UnitWork, Verdict, Watch, dense, fp16, judge, probe
from gradwire.advice.crowd import neighbour
from gradwire.advice.doors import Exchanged, beside, own_part, own_traffic, through_ddp, through_module, through_shards
from gradwire.advice.pace import trained
from gradwire.advice.rounds import LocalRound, local_rounds
from gradwire.advice.survey import agreed, agreed_rounds, mean, sound, survey
from gradwire.advice.timeline import Part
from gradwire.advice.verdict import weigh
from gradwire.advice.work import shards
from gradwire.lab import remote
from gradwire.lab.bench.advised import Advised, Probed, Question
from gradwire.lab.bench.race import Progress, race
from gradwire.lab.bench.racer import LEARNING_RATE, MOMENTUM
from gradwire.lab.bench.run import HERE, TIMEOUT_SECONDS
from gradwire.lab.bench.workloads import Workload, check_gradients, make
from gradwire.lab.ways.torchs import silent, wrap
from gradwire.net import parse_rate
from gradwire.transport.group import own_group
from gradwire.transport.process import Process

Listener: TypeAlias = Callable[[Probed | Progress], None]

STEPS = 12
"""Number of steps in which the pace is measured."""


def ask(question: Question, ranks: int, rate: str | None, listen: Listener = remote.ignore) -> Advised:
    """Answer a question on `ranks` processes, on links of `rate` or over loopback.

    Raises:
        ValueError: the islands do not fit the number of ranks.
        gradwire.lab.remote.Failed: a rank refused its input (code 2) or died (code 1); the message comes from the rank.
        gradwire.net.Refused: links of a chosen rate are not available.
    """
    question.check_ranks(ranks)
    advised = remote.run(
        answer,
        question,
        ranks,
        name=f"advice on {question.model}",
        rate=rate,
        listen=listen,
        timeout=TIMEOUT_SECONDS,
        refused=(ValueError,),  # other errors come from the user's code and need their traceback
    )
    return replace(advised, link=rate or "loopback")


def answer(question: Question, report: remote.Report) -> Advised:
    """Predict, and with `check` also measure, on the default process group.

    Every rank calls it and gets the same result.

    Raises:
        ValueError: an invalid factory, spec or loss, or islands that do not fit the ranks, in one sentence.
    """
    question.check_ranks(dist.get_world_size())
    workload = make(question.model, dist.get_rank())
    workload.check()
    process = Process(own_group(cast(dist.ProcessGroup, dist.group.WORLD), torch.device("cpu")))
    ddp = wrap(workload.model)
    ddp.register_comm_hook(None, silent)
    pace, gradients = _pace(ddp, workload, process)
    link = probe_islands(process, question)
    unit_bytes = question.bucket_mb * 2**20
    exchanged, own = _exchanged(ddp, question, gradients, pace, process), Part(0.0, 0.0)
    nbytes, used = float(sum(gradient.nbytes for gradient in gradients)), link
    if question.door == "sharded":
        inside, used = cast(Link, link.inside), replace(cast(Link, link.between), share=link.share)
        own = own_part(nbytes, inside, unit_bytes)
        pace = beside(pace, own, link.share)
    report(Probed(pace.compute + pace.tail))
    verdict = _judge(ddp, exchanged, question, pace, used, process)
    rounds = _rounds(exchanged, question, pace, used, process)
    process.close()
    # JSON has no infinity: beta is None if the timed seconds did not depend on the size.
    alpha = {kind: cost.alpha for kind, cost in used.costs.items()}
    beta = {kind: cost.beta if cost.per_byte > 0 else None for kind, cost in used.costs.items()}
    measured = _check(question, verdict, process.size, report) if question.check else {}
    return Advised(
        question.model,
        HERE,
        process.size,
        pace.compute + pace.tail,
        alpha,
        beta,
        verdict,
        measured,
        rounds=rounds,
        door=question.door,
        island=question.island,
        own_traffic=own_traffic(nbytes, question.island) if question.door == "sharded" else 0.0,
        own_seconds=own.cpu + own.wait,
    )


def probe_islands(process: Process, question: Question) -> Link:
    """Time the link of all ranks, and with islands the links inside and between them; all islands at the same time."""
    device, kinds = torch.device("cpu"), (*KINDS, HALF)
    link = probe(process, device, kinds)
    if question.island == 1:
        return link
    s = question.island
    inside = _probe_groups([list(range(first, first + s)) for first in range(0, process.size, s)])
    between = _probe_groups([list(range(place, process.size, s)) for place in range(s)])
    if question.inside is not None:
        inside = inside.at(parse_rate(question.inside) / 8)
    return replace(link, inside=inside, between=between)


def _probe_groups(groups: list[list[int]]) -> Link:
    """Time the link of this rank's group, while the other groups time theirs."""
    own, _ = dist.new_subgroups_by_enumeration(groups)
    device, process = torch.device("cpu"), Process(cast(dist.ProcessGroup, own))
    link = probe(process, device, (*KINDS, HALF))
    process.close()
    return link


def _exchanged(
    ddp: DistributedDataParallel, question: Question, gradients: list[Tensor], pace: Pace, process: Process
) -> Exchanged:
    """The tensors that the question's door exchanges."""
    if question.door == "ddp":
        return through_ddp(ddp, gradients, pace, process.size, question.bucket_mb * 2**20)
    whole = through_module(ddp, gradients, process.size)
    return whole if question.door == "module" else through_shards(whole, process.rank, question.island)


def _pace(ddp: DistributedDataParallel, workload: Workload, process: Process) -> tuple[Pace, list[Tensor]]:
    """Make a few steps without averaging, as the benchmark does; return their pace and the last gradients."""
    found, first = list[Pace](), True
    optimizer = torch.optim.SGD(ddp.parameters(), LEARNING_RATE, MOMENTUM)
    watch = Watch(ddp, found.append, lambda seconds: mean(process, seconds), STEPS, silent=True)
    while not found:
        dist.barrier()
        optimizer.zero_grad(set_to_none=False)
        workload.loss(ddp).backward()
        if first:
            check_gradients(cast(nn.Module, ddp.module), "dense")
            first = False
        if not found:
            optimizer.step()
    watch.close()
    params = trained(ddp)
    return found[0], sound({number: param.grad for number, param in enumerate(params)}, params)


def _judge(
    ddp: DistributedDataParallel, exchanged: Exchanged, question: Question, pace: Pace, link: Link, process: Process
) -> Verdict:
    """Predict dense, fp16 and the candidates, and average the predictions over the ranks.

    For the sharded door, dense is native HSDP and fp16 is left out. For the module door, dense and fp16 are DDP's.
    """
    unit_bytes = question.bucket_mb * 2**20
    work: dict[str, Sequence[UnitWork] | str]
    with neighbour(link.share < 1):
        if question.door == "sharded":
            work = {"dense": shards(exchanged, unit_bytes)}
        else:
            work = {"dense": dense(ddp, pace, process.size), "fp16": fp16(ddp, pace, process.size)}
        work |= survey(exchanged, question.candidates, unit_bytes)
    return judge(agreed(process, torch.device("cpu"), weigh(pace, work, link)))


def _rounds(
    exchanged: Exchanged, question: Question, pace: Pace, link: Link, process: Process
) -> tuple[LocalRound, ...]:
    """Rehearse the exchanges of local steps, and average their figures over the ranks."""
    step, unit_bytes = pace.compute + pace.tail, question.bucket_mb * 2**20
    found = local_rounds(exchanged.named, exchanged.gradients, step, link, unit_bytes, question.local)
    return tuple(agreed_rounds(process, torch.device("cpu"), found)) if found else ()


def _check(question: Question, verdict: Verdict, ranks: int, report: remote.Report) -> dict[str, float]:
    """Measure the seconds of a step of every predicted method and of the question's `beside`."""
    known = tuple(method.name for method in verdict.methods if not method.refusal)
    raced = race(question.plan(known + question.beside).cell(ranks, None, HERE), report)
    return {one.method: one.step for one in raced.measured}
