"""Advice on one of the benchmark's workloads: `python -m gradwire.lab.bench.advising QUESTION` on every rank.

Rank 0 prints events, one JSON object a line: link, method (a prediction), verdict, and with `check` step (a sign of
life of the measurement) and measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gradwire.advice import CANDIDATES, HALF, KINDS, Errand, Link, Pace, Verdict, Watch, dense, fp16, judge, probe
from gradwire.advice.crowd import neighbour
from gradwire.advice.pace import trained
from gradwire.advice.survey import agreed, mean, sound, survey
from gradwire.advice.verdict import weigh
from gradwire.lab.bench.plan import Plan
from gradwire.lab.bench.race import Tell, measure
from gradwire.lab.bench.racer import LEARNING_RATE, MOMENTUM
from gradwire.lab.bench.workloads import Workload, check_model, make
from gradwire.lab.remote import live, say
from gradwire.lab.ways.silent import silent
from gradwire.lab.ways.torchs import wrap
from gradwire.spec import parse
from gradwire.transport.group import own_group
from gradwire.transport.process import Process

STEPS = 12
"""Steps in which the pace is measured."""

TIMEOUT_SECONDS = 1800


@dataclass(frozen=True)
class Question:
    """Which of these specs pays on this model?

    `check` measures all of them too, `steps` each in `seconds` at most, and the ways `beside`, which nobody predicts.
    """

    model: str = "mlp"
    candidates: tuple[str, ...] = CANDIDATES
    bucket_mb: float = 25.0
    check: bool = False
    beside: tuple[str, ...] = ()
    steps: int = 20
    seconds: float = 20.0

    def __post_init__(self) -> None:
        check_model(self.model)
        if not self.candidates or len(set(self.candidates)) < len(self.candidates):
            raise ValueError(f"advice takes every candidate once, got {', '.join(self.candidates) or 'none'}")
        for spec in self.candidates:
            parse(spec)
        Plan(self.model, ("dense", *self.beside), steps=self.steps, seconds=self.seconds, bucket_mb=self.bucket_mb)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Question:
        """Read what `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        return cls(candidates=tuple(fields.pop("candidates")), beside=tuple(fields.pop("beside")), **fields)


def main() -> None:
    """Answer, and leave."""

    def work() -> None:
        answer(Question.from_json(sys.argv[1]), say)

    live(work, TIMEOUT_SECONDS, (ValueError,))


def answer(question: Question, tell: Tell) -> Verdict:
    """Predict, and with `check` measure, on the ranks of the default group. Every rank calls it; the same on all."""
    workload = make(question.model, dist.get_rank())
    process = Process(own_group(cast(dist.ProcessGroup, dist.group.WORLD), torch.device("cpu")))
    verdict = _advise(workload, question, process, tell)
    process.close()
    tell("verdict", choice=verdict.choice, sentence=verdict.sentence, methods=[asdict(m) for m in verdict.methods])
    if question.check:
        known = tuple(method.name for method in verdict.methods if not method.refusal) + question.beside
        plan = Plan(question.model, known, steps=question.steps, seconds=question.seconds, bucket_mb=question.bucket_mb)
        _, measured = measure(plan.cell(process.size, None, "here"), tell)
        tell("measured", seconds={one.method: one.step for one in measured})
    return verdict


def _advise(workload: Workload, question: Question, process: Process, tell: Tell) -> Verdict:
    """The prediction."""
    ddp = wrap(workload.model)
    ddp.register_comm_hook(None, silent)
    pace, gradients = _pace(ddp, workload, process)
    link = probe(process, torch.device("cpu"), (*KINDS, HALF))
    _tell_link(link, pace, tell)
    unit_bytes = question.bucket_mb * 2**20
    with neighbour(link.share < 1):
        work: dict[str, Sequence[Errand] | str] = {
            "dense": dense(ddp, pace, process.size),
            "fp16": fp16(ddp, pace, process.size),
            **survey(ddp, question.candidates, gradients, pace, process.size, unit_bytes),
        }
    return judge(agreed(process, torch.device("cpu"), weigh(pace, work, link)))


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


def _tell_link(link: Link, pace: Pace, tell: Tell) -> None:
    """Seconds a call and bytes a second by kind; a link whose sizes made no difference has no bytes a second."""
    betas = {kind: cost.beta if cost.per_byte > 0 else None for kind, cost in link.costs.items()}
    alphas = {kind: cost.alpha for kind, cost in link.costs.items()}
    tell("link", alpha=alphas, beta=betas, share=link.share, compute=pace.compute + pace.tail)


if __name__ == "__main__":
    main()
