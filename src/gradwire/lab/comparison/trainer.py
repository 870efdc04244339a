"""One rank of a run of the small GPT: model, data, optimizer, clock, evaluations and checkpoints."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradwire.lab import corpus, remote
from gradwire.lab.comparison.clock import Clock
from gradwire.lab.comparison.job import Pulse, Started, TrainingJob, rate_at
from gradwire.lab.comparison.record import Point, Run
from gradwire.lab.comparison.timed import StepTimes
from gradwire.lab.models.gpt import GPT
from gradwire.lab.ways.wrapped import average

GO, EVALUATE, STOP = 0, 1, 2
EVALUATION_SEQUENCES = 256
CLOCK_STEPS, MOMENTUM = 4, 0.8
WARM, COUNTED, PULSE_SECONDS = 4, 20, 0.5


class Trainer:
    """Model, data, optimizer and counters of one rank of the existing default process group."""

    def __init__(self, job: TrainingJob, report: remote.Report) -> None:
        self.job, self.report, self.rank, self.size = job, report, dist.get_rank(), dist.get_world_size()
        torch.manual_seed(job.seed)
        self.model = GPT(job.width, job.depth, job.heads, job.context)
        self.corpus = corpus.standard_library()
        self.optimizer = _optimizer(job, self.model)
        self.comm = average(self.model, self.optimizer, job.exchange, job.seed, job.bucket_mb, rehearsed=job.rehearsed)
        period = self.comm.period  # clock checks and evaluations happen when all ranks hold the same model
        self.clock_steps = -(-CLOCK_STEPS // period) * period
        self.step, self.link_start, self.next_pulse, self.spent = 0, (0, 0), 0.0, 0.0
        self.points: list[Point] = []
        if job.resume:
            self.load(Path(job.resume))

    def run(self) -> Run:
        """Measure compute, train, save a checkpoint if asked, and return the run's record."""
        compute = self.compute_seconds()
        self.report(Started(sum(p.numel() for p in self.model.parameters()), self.step))
        timed = self.train()
        if self.job.save:
            self.save(Path(self.job.save))
        low, step, high = timed.quantiles()
        link_bytes, link_packets = self.link()
        run = Run(
            name=self.job.exchange,
            spec=self.job.exchange,
            points=tuple(self.points),
            split=timed.split(compute, self.comm.selecting()),
            step_seconds=step,
            step_seconds_low=low,
            step_seconds_high=high,
            ledger_bytes=round(self.comm.sent()),
            link_bytes=link_bytes,
            link_packets=link_packets,
        )
        self.comm.close()
        return run

    def train(self) -> StepTimes:
        """Train until the budget is spent or the target is reached."""
        self.link_start, first = self.link(), self.step
        clock, timed = Clock(), StepTimes(self.comm.period)
        self.evaluate(clock)
        while self.goes_on(clock, first):
            self.train_step(timed)
        self.comm.finish()
        if self.points[-1].step < self.step:
            self.evaluate(clock)
        return timed

    def train_step(self, timed: StepTimes) -> None:
        """Make one step on a new batch."""
        began = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.job, self.step, self.spent)
        self.loss(self.comm.model).backward()
        self.comm.stepped()
        computed, exchanged = time.perf_counter(), self.comm.optimizing()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.job.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        self.step += 1
        ended, exchanging = time.perf_counter(), self.comm.optimizing() - exchanged
        timed.note(ended - began, ended - computed - exchanging, exchanging)

    def loss(self, model: nn.Module) -> Tensor:
        """The loss on this rank's batch at this step, which is a function of seed, step and rank."""
        draw = torch.Generator().manual_seed((self.job.seed * 1_000_003 + self.step) * 1024 + self.rank)
        tokens, targets = self.corpus.batch(self.job.batch, self.job.context, draw)
        return model(tokens, targets)

    def compute_seconds(self) -> float:
        """Measure the median seconds of forward and backward without communication."""
        found: list[float] = []
        dist.barrier()  # so that no rank has the cores to itself for a while
        for _ in range(WARM + COUNTED):
            began = time.perf_counter()
            with self.comm.quiet():
                self.loss(self.comm.model).backward()
            found.append(time.perf_counter() - began)
        self.optimizer.zero_grad(set_to_none=True)
        return statistics.median(found[WARM:])

    def goes_on(self, clock: Clock, first: int) -> bool:
        """Whether to make another step, the same on all ranks: by the steps done and, regularly, by rank 0's clock."""
        done = self.step - first
        self.spent = max(self.spent, done / self.job.steps)
        if done >= self.job.steps or done % self.clock_steps:
            return done < self.job.steps
        due = len(self.points) * self.job.evaluate_every
        order = STOP if clock.seconds() >= self.job.seconds else EVALUATE if clock.seconds() >= due else GO
        order, fraction = remote.agreed(order, clock.seconds() / self.job.seconds)
        self.spent = max(self.spent, fraction)
        self.pulse(clock)
        if order == EVALUATE:
            self.evaluate(clock)
        return order != STOP and not (self.job.target is not None and self.points[-1].loss <= self.job.target)

    def pulse(self, clock: Clock) -> None:
        """Report progress, at most twice a second."""
        if clock.seconds() >= self.next_pulse:
            self.next_pulse = clock.seconds() + PULSE_SECONDS
            self.report(Pulse(self.step, clock.seconds()))

    @torch.no_grad()
    def evaluate(self, clock: Clock) -> None:
        """Compute the held-out loss, a part on each rank; neither the time nor the bytes count as training."""
        sent, before = self.link()[0] or round(self.comm.sent()), remote.link_counters()
        with clock.pause():
            tokens, targets = self.corpus.evaluation(EVALUATION_SEQUENCES, self.job.context)
            part = slice(self.rank, None, self.size)
            loss = self.model(tokens[part], targets[part]).double() * len(tokens[part])
            dist.all_reduce(loss)
            sent_bytes, packets = (now - then for now, then in zip(remote.link_counters(), before, strict=True))
            self.link_start = self.link_start[0] + sent_bytes, self.link_start[1] + packets
        self.points.append(Point(self.step, clock.seconds(), sent, loss.item() / EVALUATION_SEQUENCES))
        self.report(self.points[-1])

    def link(self) -> tuple[int, int]:
        """Bytes and packets that this rank has sent in training, by the kernel's count; 0 on loopback (shared)."""
        now = remote.link_counters()
        return now[0] - self.link_start[0], now[1] - self.link_start[1]

    def save(self, folder: Path) -> None:
        """Write this rank's checkpoint atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"rank{self.rank}.pt"
        parts = {"model": self.model, "optimizer": self.optimizer, "comm": self.comm}
        torch.save({"step": self.step, **{name: part.state_dict() for name, part in parts.items()}}, f"{file}.part")
        dist.barrier()
        os.replace(f"{file}.part", file)

    def load(self, folder: Path) -> None:
        """Restore this rank's checkpoint; ValueError if it is missing, invalid or of another method."""
        file = folder / f"rank{self.rank}.pt"
        try:
            saved = torch.load(file, weights_only=True)
            step, comm, model, optimizer = (saved[name] for name in ("step", "comm", "model", "optimizer"))
        except FileNotFoundError:
            raise ValueError(f"there is no checkpoint {file}") from None
        except Exception as error:
            raise ValueError(f"{file} is not a checkpoint of a training run: {str(error).splitlines()[0]}") from None
        self.comm.load_state_dict(comm)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.step = step


def _optimizer(job: TrainingJob, model: nn.Module) -> torch.optim.Optimizer:
    if job.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), job.learning_rate)
    return torch.optim.SGD(model.parameters(), job.learning_rate, MOMENTUM, nesterov=True)
