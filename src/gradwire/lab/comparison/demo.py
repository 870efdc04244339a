"""The demonstration: dense against local steps and per-step methods; same model, data, seed, optimizer and time."""

from __future__ import annotations

from gradwire.lab.comparison.job import TrainingJob

RUNS = {
    "dense DDP": "dense",
    "PowerSGD rank 4": "powersgd4",
    "EF(Top-k) 10 %": "ef(topk(density=0.1, values='bits4'))",
    "gradwire.local": "local(every=10)",
}
"""The runs of the demonstration. The first is the baseline."""

RATE = 0.002
"""The learning rate of all runs, at its highest."""

NOTE = (
    f"All runs share one optimizer: AdamW with torch's settings, learning rate {RATE:g} after a warm-up of 20 steps, "
    "then down a cosine over the run's own time, gradients clipped at norm 1. PowerSGD and EF(Top-k) average gradients "
    "at every step; gradwire.local lets each rank take ten steps by itself and then exchanges differences of models."
)


def jobs(seconds: float, seed: int) -> dict[str, TrainingJob]:
    """One job a run."""
    return {name: TrainingJob(way, seconds=seconds, seed=seed, learning_rate=RATE) for name, way in RUNS.items()}


def model_name(job: TrainingJob, parameters: int) -> str:
    """Name the model in a line."""
    return f"GPT, {parameters / 1e6:.2f} M parameters ({job.depth} blocks of width {job.width}), bytes, AdamW"
