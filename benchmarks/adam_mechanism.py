"""Why sparse gradients and Adam do not mix: how far Adam moves on the same gradients, dense and sparse.

    nice -n 5 python benchmarks/adam_mechanism.py

First, one coordinate with a constant gradient plus noise. Then a GPT of 0.12 M parameters is trained by dense AdamW, while
"shadow" optimizers receive the same four gradients through an exchange. A shadow changes no parameters; the updates that it
would have made are summed over a window of steps. Results: results/adam_mechanism.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import gradwire as gw
from gradwire.lab import records
from gradwire.lab.averager import InProcess
from gradwire.lab.training import Training
from gradwire.lab.training.run import TrainingRun

RESULTS = Path(__file__).parent / "results" / "adam_mechanism.json"
BETA1, BETA2, EPS = 0.9, 0.95, 1e-8
COORDINATES, EVERY, STEPS = 4000, 100, 2000
"""The toy problem: independent copies of the coordinate, steps between two deliveries, and steps in total."""

WARM, WINDOW, LR = 100, 200, 4e-3
"""The GPT: steps before the window and in it, and the learning rate of its own training."""

TOPK = "ef(topk(density={}))"


@dataclass
class Adam:
    """Updates of Adam without a learning rate: m / (sqrt(v) + eps), both bias-corrected."""

    beta2: float = BETA2
    eps: float = EPS
    m: Tensor | float = 0.0
    v: Tensor | float = 0.0
    steps: int = 0

    def __call__(self, g: Tensor, dense: Tensor | None = None) -> Tensor:
        """The update for a gradient; second moments are those of `dense`, if it is given."""
        self.steps += 1
        self.m = BETA1 * self.m + (1 - BETA1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * (g if dense is None else dense).square()
        root = torch.as_tensor(self.v / (1 - self.beta2**self.steps)).sqrt()
        return self.m / (1 - BETA1**self.steps) / (root + self.eps)


def toy() -> list[dict[str, float]]:
    """Net movement of Adam on sparse gradients divided by dense Adam's, for a gradient of 1 with noise of 1 / r.

    A spike delivers the sum of the gradients since the last one, times `scale`, to which Adam is invariant.
    """
    rows: list[dict[str, float]] = []
    for r in (0.1, 0.3, 1.0, 10.0):
        for beta2 in (0.95, 0.99, 0.999):
            for scale in (1.0, 100.0):
                rng = torch.Generator().manual_seed(0)
                dense, sparse, held = Adam(beta2), Adam(beta2), torch.zeros(COORDINATES)
                moved = {"dense": 0.0, "sparse": 0.0}
                for step in range(1, STEPS + 1):
                    g = 1 + torch.randn(COORDINATES, generator=rng) / r
                    held += g
                    spike = scale * held if step % EVERY == 0 else torch.zeros_like(held)
                    held *= step % EVERY != 0
                    updates = {"dense": dense(g), "sparse": sparse(spike)}
                    if step > STEPS // 2:
                        for name, update in updates.items():
                            moved[name] += update.mean().item()
                rows.append({"signal_to_noise": r, "beta2": beta2, "scale": scale, "net": moved["sparse"] / moved["dense"]})  # fmt: skip
    return rows


Shadow = Callable[[Tensor, Tensor], Tensor]
"""A function of the workers' gradients f[n, d] and their mean f[d]; returns an update f[d]."""


def shadows(layout: gw.Layout, workers: int) -> Mapping[str, Shadow]:
    """The compared optimizers, by name."""

    def through(spec: str, optimizer: Callable[[Tensor, Tensor], Tensor]) -> Shadow:
        sim = gw.Simulator(spec, layout, workers, batched=True)
        return lambda xs, mean: optimizer(sim.step(xs).mean, mean)

    def alone(adam: Adam) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda g, _: adam(g)

    def of_updates(spec: str) -> Shadow:
        sim, each = gw.Simulator(spec, layout, workers, batched=True), Adam()
        return lambda xs, _: sim.step(each(xs)).mean

    def of_ratios(spec: str, optimizer: Callable[[Tensor], Tensor]) -> Shadow:
        sim, each = gw.Simulator(spec, layout, workers, batched=True), Adam()

        def shadow(xs: Tensor, _: Tensor) -> Tensor:
            each(xs)
            root = torch.as_tensor(each.v / (1 - each.beta2**each.steps)).sqrt()
            return optimizer(sim.step(xs / (root + EPS)).mean)

        return shadow

    sparse = TOPK.format(0.01)
    return {
        "dense, Adam": through("mean", alone(Adam())),
        "EF(Top-k) 1 %, SGD": through(sparse, lambda g, _: g),
        "dense, SGD": through("mean", lambda g, _: g),
        "EF(Top-k) 1 %, Adam": through(sparse, alone(Adam())),
        "EF(Top-k) 5 %, Adam": through(TOPK.format(0.05), alone(Adam())),
        "EF(Top-k) 10 %, Adam": through(TOPK.format(0.1), alone(Adam())),
        "EF(Top-k) 1 %, Adam, beta2 = 0.999": through(sparse, alone(Adam(beta2=0.999))),
        "EF(Top-k) 1 %, v of the dense mean": through(sparse, Adam()),
        "EF(Top-k) 1 % of g / sqrt(v), then Adam": of_ratios(sparse, Adam()),
        "EF(Top-k) 1 % of g / sqrt(v), then SGD": of_ratios(sparse, lambda g: g),
        "EF(Top-k) 1 % of the update": of_updates(sparse),
    }


def gpt() -> list[dict[str, float | str]]:
    """Each shadow's movement over the window along dense's, and the length of its path relative to dense's."""
    training = Training("language", workers=4, model="gpt", batch=4, steps=WARM + WINDOW, optimizer="adamw")
    run = TrainingRun(replace(training.filled(), learning_rate=LR, evaluate_every=WARM + WINDOW), InProcess)
    cast = shadows(run.layout, training.workers)
    net = {name: torch.zeros(run.layout.d) for name in cast}
    path = {name: torch.zeros(run.layout.d) for name in cast}
    for step in range(WARM + WINDOW):
        run.advance()
        xs = run.xs.clone()
        for name, shadow in cast.items():
            update = shadow(xs, xs.mean(0))
            if step >= WARM:
                net[name] += update
                path[name] += update.abs()
    found: list[dict[str, float | str]] = []
    for name in cast:
        base = "dense, SGD" if name in ("dense, SGD", "EF(Top-k) 1 %, SGD") else "dense, Adam"
        along = (net[name].dot(net[base]) / net[base].square().sum()).item()
        alike = (net[name].dot(net[base]) / net[name].norm() / net[base].norm()).item()
        length = (path[name] / path[base].clamp(min=1e-12)).median().item()
        found.append({"shadow": name, "along_dense": along, "cosine": alike, "median_path": length})
        print(found[-1], flush=True)
    return found


def main() -> None:
    torch.set_num_threads(1)
    record = {"versions": records.platform_versions(), "toy": toy(), "gpt": gpt()}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
