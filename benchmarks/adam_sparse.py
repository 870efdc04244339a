"""Sparse gradients under AdamW, and what helps: a GPT of 0.12 M parameters on text, four workers in one process.

    nice -n 5 python benchmarks/adam_sparse.py

Every finished run is kept in results/adam_sparse.json, so the script can be stopped and restarted. The learning rate of each
method is swept at seed 0, and the sweep continues while the best rate is at its edge; the best rate is also run with another
seed. `adam_page.py` makes the page's table and figure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradwire.lab import records
from gradwire.lab.averager import Averager, InProcess
from gradwire.lab.training import LocalSteps, Training, train
from gradwire.lab.training.run import TrainingRun
from gradwire.lab.training.tasks.protocol import Settings
from gradwire.layout import Layout
from gradwire.vector import Sent

RESULTS = Path(__file__).parent / "results" / "adam_sparse.json"
STEPS, SEEDS, RATES, MOST_RATES = 300, (0, 1), (4e-3, 8e-3, 1.6e-2), 5
BASE = Training("language", workers=4, model="gpt", batch=4, steps=STEPS, optimizer="adamw", evaluate_every=STEPS)
TOPK = "ef(topk(density={}))"


@dataclass(frozen=True)
class Way:
    """A method of training. eps, beta2: AdamW's. moments: "own" or "mean": second moments are those of dense gradients.

    early: apply momentum to a worker's own gradients before the exchange, not after it.
    """

    exchange: str = "dense"
    local: LocalSteps | None = None
    eps: float = 1e-8
    beta2: float = 0.95
    moments: str | None = None
    early: bool = False


WAYS: Mapping[str, Way] = {
    "dense": Way(),
    "EF(Top-k) 1 %": Way(TOPK.format(0.01)),
    "EF(Top-k) 1 % of the update": Way(TOPK.format(0.01), LocalSteps(1, "sgd(lr=1.0)")),
    "EF(Top-k) 1 % of the update, senders' mean": Way(TOPK.format(0.01), LocalSteps(1)),
    "EF(Top-k) 1 %, v of own dense gradients": Way(TOPK.format(0.01), moments="own"),
    "EF(Top-k) 1 %, v and m of own dense gradients": Way(TOPK.format(0.01), moments="own", early=True),
    "EF(Top-k) 1 %, v of the dense mean": Way(TOPK.format(0.01), moments="mean"),
    "EF(Top-k) 1 %, beta2 = 0.999": Way(TOPK.format(0.01), beta2=0.999),
    "EF(Top-k) 1 %, eps = 1e-2": Way(TOPK.format(0.01), eps=1e-2),
    "EF(Top-k) 5 %": Way(TOPK.format(0.05)),
    "EF(Top-k) 10 %": Way(TOPK.format(0.1)),
}


def main() -> None:
    torch.set_num_threads(1)
    best = {label: swept(label, way) for label, way in WAYS.items()}
    for seed in SEEDS[1:]:
        for label, way in WAYS.items():
            result(label, way, best[label], seed)


def swept(label: str, way: Way) -> float:
    """Find the learning rate with the lowest final loss; it is not at the edge of those tried, unless they are many."""
    rates = list(RATES)
    while True:
        losses = {rate: result(label, way, rate, SEEDS[0])["loss"] for rate in sorted(rates)}
        best = min(losses, key=losses.__getitem__)
        if min(rates) < best < max(rates) or len(rates) == MOST_RATES:
            return best
        rates.append(2 * best if best == max(rates) else best / 2)


def result(label: str, way: Way, lr: float, seed: int) -> dict[str, Any]:
    """Look up a run, or train it and record it."""
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    runs = known.setdefault("runs", [])
    for run in runs:
        if (run["label"], run["lr"], run["seed"]) == (label, lr, seed):
            return run
    began = time.perf_counter()
    loss, megabytes = trained(way, lr, seed)
    seconds = round(time.perf_counter() - began, 1)
    runs.append({"label": label, "lr": lr, "seed": seed, "loss": loss, "megabytes": megabytes, "seconds": seconds})
    known |= {"versions": records.platform_versions(), "steps": STEPS, "workers": BASE.workers}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    print(f"{label}, lr {lr}, seed {seed}: {loss:.4f}, {megabytes:.2f} MB, {seconds:.0f} s", flush=True)
    return runs[-1]


def trained(way: Way, lr: float, seed: int) -> tuple[float, float]:
    """Train; return the final held-out loss in nats per byte, and the megabytes that a worker has sent."""
    training = replace(BASE, exchange=way.exchange, learning_rate=lr, seed=seed, local=way.local)
    if way.local is not None:
        history = train(training)
        return history.final["loss"], sum(step.bytes for step in history.steps) / 1e6
    run = TrainingRun(training.filled(), InProcess)
    if way.moments is None:
        for group in run.optimizer.param_groups:
            group |= {"eps": way.eps, "betas": (group["betas"][0], way.beta2)}
    else:
        run.averager = DenseMoments(run.averager, run.settings, own=way.moments == "own", early=way.early)
        run.optimizer = Momentum(run.parameters, run.mean, run.layout, run.settings, run.averager)
    sent = sum(run.advance().bytes for _ in range(STEPS))
    return run.evaluate().metrics["loss"], sent / 1e6


class DenseMoments:
    """Adam's second moments of gradients before compression.

    own: every worker divides its gradient by the root of its own moments before it sends it. Otherwise the moments are those
    of the dense mean, which is unknown outside a laboratory, and the optimizer divides by `root`. early: a worker divides the
    average of its past gradients, and the optimizer has no momentum.
    """

    def __init__(self, averager: Averager, settings: Settings, own: bool, early: bool) -> None:
        self.averager, self.own, self.early, self.steps = averager, own, early, 0
        self.beta1, self.beta2 = settings.betas
        self.workers, self.states, self.ledger, self.total = (
            averager.workers, averager.states, averager.ledger, averager.total
        )  # fmt: skip
        self.m, self.v, self.root = torch.zeros(()), torch.zeros(()), torch.ones(())

    def send(self, xs: Tensor, step: int, params: Tensor, lr: float | None = None) -> Sent:
        self.steps += 1
        squares = (xs if self.own else xs.mean(0)).square()
        self.v = self.v * self.beta2 + squares * (1 - self.beta2)
        root = (self.v / (1 - self.beta2**self.steps)).sqrt_().add_(1e-8)
        self.root = torch.ones(()) if self.own else root
        if self.early:
            self.m = self.m * self.beta1 + xs * (1 - self.beta1)
            xs = self.m / (1 - self.beta1**self.steps)
        return self.averager.send(xs / root if self.own else xs, step, params, lr)


class Momentum:
    """AdamW with given second moments: the average of past means, divided by `root`."""

    def __init__(
        self, parameters: list[Tensor], mean: Tensor, layout: Layout, settings: Settings, moments: DenseMoments
    ) -> None:
        self.parameters, self.mean, self.layout, self.settings, self.moments = (
            parameters, mean, layout, settings, moments
        )  # fmt: skip
        self.param_groups, self.m, self.steps = [{"lr": settings.lr}], torch.zeros_like(mean), 0

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        lr, beta1 = self.param_groups[0]["lr"], 0.0 if self.moments.early else self.settings.betas[0]
        self.m.lerp_(self.mean, 1 - beta1)
        update = self.m / (1 - beta1**self.steps) / self.moments.root
        for param, part in zip(self.parameters, self.layout.cut(update).values(), strict=True):
            if param.ndim >= 2:
                param.mul_(1 - lr * self.settings.weight_decay)
            param.sub_(part, alpha=lr)


if __name__ == "__main__":
    main()
