"""The options of `gradwire demo` and `gradwire train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradwire.cli.commands.shared import Ranks, Rate, Seed
from gradwire.cli.console import out


def demo_command(
    full: Annotated[bool, typer.Option("--full", help="A larger model and 50 s a run: five minutes in all.")] = False,
    seconds: Annotated[
        float | None, typer.Option(help="Training time of every run. Left out: 8, with --full 50.")
    ] = None,
    rate: Rate = "100mbit",
    ranks: Ranks = 2,
    seed: Seed = 0,
    output: Annotated[Path, typer.Option(help="The report; its data goes beside it as .json.")] = Path(
        "gradwire-report.html"
    ),
) -> None:
    """Train a small GPT over a slow link, dense against fewer bytes, and write a report."""
    out.print("gradwire demo: loading torch")
    from gradwire.cli.demo import show

    show(full, seconds, rate, ranks, seed, output)


def train_command(
    exchange: Annotated[
        str, typer.Option(help="A spec such as 'ef(deft(density=0.01))', or dense, fp16, powersgd4, 'local(every=10)'.")
    ],
    ranks: Ranks = 2,
    rate: Rate = None,
    seconds: Annotated[float, typer.Option(help="Training time.")] = 60.0,
    steps: Annotated[
        int, typer.Option(help="Largest number of steps; training ends here or with the time.")
    ] = 1_000_000,
    seed: Seed = 0,
    optimizer: Annotated[str, typer.Option(help="adamw, or sgd with Nesterov momentum 0.8.")] = "adamw",
    learning_rate: Annotated[
        float, typer.Option(help="Peak learning rate: after the warm-up, before cosine decay.")
    ] = 0.002,
    width: Annotated[int, typer.Option(help="The model's width.")] = 128,
    bucket_mb: Annotated[float | None, typer.Option(help="Megabytes exchanged together.")] = None,
    save: Annotated[Path | None, typer.Option(help="Folder to write a checkpoint to, one file a rank.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a checkpoint to continue from.")] = None,
) -> None:
    """Train the small GPT once, on processes of this machine."""
    from gradwire.cli.train import train

    train(exchange, ranks, rate, seconds, steps, seed, optimizer, learning_rate, width, bucket_mb, save, resume)
