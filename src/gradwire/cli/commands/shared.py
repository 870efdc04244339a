"""Options that several commands share."""

from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="gpt, mlp, resnet18, or your own factory module:name, giving (model, loss).")]
Rate = Annotated[str | None, typer.Option(help="Bandwidth of every link: 10mbit, 100mbit, 1gbit. Left out: loopback.")]
Ranks = Annotated[int, typer.Option(min=1, max=64, help="Processes, each on a link of its own.")]
Seed = Annotated[int, typer.Option(help="Seed of model, data and compression.")]
