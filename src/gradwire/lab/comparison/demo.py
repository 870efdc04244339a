"""The demonstration: dense against compressed, same model, data, seed, optimizer and time."""

from __future__ import annotations

from gradwire.lab.comparison.job import TrainingJob

RUNS = {
    "dense DDP": "dense",
    "torch's fp16 hook": "fp16",
    "EF(Top-k) 1 %": "ef(topk(density=0.01))",
    "EF(DEFT) 1 %": "ef(deft(density=0.01))",
    "EF21(Top-k) 1 %": "ef21(topk(density=0.01))",
}
"""The runs of the demonstration. The first is the baseline."""

NOTE = (
    "All runs share one optimizer: SGD with Nesterov momentum 0.8, learning rate 0.08, gradients clipped at norm 1. "
    "Dense DDP learns about as well with these as with the best other settings of SGD we tried for it. Adam divides by "
    "the size of past gradients, which sparse ones distort: with it dense DDP learns faster and compression buys less."
)


def jobs(seconds: float, seed: int) -> dict[str, TrainingJob]:
    """One job a run."""
    return {name: TrainingJob(exchange, seconds=seconds, seed=seed) for name, exchange in RUNS.items()}


def model_name(job: TrainingJob, parameters: int) -> str:
    """Name the model in a line."""
    return f"GPT, {parameters / 1e6:.2f} M parameters ({job.depth} blocks of width {job.width}), bytes, SGD"
