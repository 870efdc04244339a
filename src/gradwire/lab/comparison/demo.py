"""The runs of `gradwire demo`: dense, local steps and per-step methods; same model, data, seed, optimizer and time."""

from __future__ import annotations

from dataclasses import dataclass

from gradwire.lab.comparison.job import TrainingJob

RUNS = {
    "dense DDP": "dense",
    "PowerSGD rank 4": "powersgd4",
    "EF(Top-k) 10 %": "ef(topk(density=0.1, values='bits4'))",
    "gradwire.local": "local(every=10)",
}
"""The method of each run, by the run's name. The first is the baseline."""

RATE = 0.002
"""The peak learning rate of all runs."""


@dataclass(frozen=True)
class Size:
    """The training seconds of a run, and the width and depth of its model."""

    seconds: float
    width: int
    depth: int


SHORT = Size(8.0, 64, 3)
"""The default: a model so small that dense DDP makes a hundred steps in the time."""

FULL = Size(50.0, 128, 4)
"""The size of `gradwire demo --full`, which the docs show."""

METHODS = (
    f"All runs share one optimizer: AdamW with torch's settings, learning rate {RATE:g} after a warm-up of 20 steps, "
    "then down a cosine over the run's own time, gradients clipped at norm 1. PowerSGD and EF(Top-k) average gradients "
    "at every step; gradwire.local lets each rank take ten steps by itself and then exchanges differences of models."
)


def note(full: bool) -> str:
    """The report's remarks about the runs."""
    short = (
        "\nThis is the short run: a tiny model in its first hundreds of steps, where every optimizer still learns "
        "fast. It shows what a slow link costs, not where training ends; gradwire demo --full trains longer."
    )
    return METHODS + short * (not full)


def jobs(size: Size, seconds: float | None, seed: int) -> dict[str, TrainingJob]:
    """Make one job for each run, with at least ten evaluations in its time."""
    budget = size.seconds if seconds is None else seconds
    return {
        name: TrainingJob(
            way,
            seconds=budget,
            seed=seed,
            learning_rate=RATE,
            width=size.width,
            depth=size.depth,
            evaluate_every=min(2.0, budget / 10) if budget > 0 else 2.0,
        )
        for name, way in RUNS.items()
    }


def model_name(job: TrainingJob, parameters: int) -> str:
    """Describe the model in one line."""
    return f"GPT, {parameters / 1e6:.2f} M parameters ({job.depth} blocks of width {job.width}), bytes, AdamW"
