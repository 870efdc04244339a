"""The options of `gradwire advise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradwire.cli.commands.shared import Model


def advise_command(
    model: Model = "mlp",
    candidate: Annotated[
        list[str] | None, typer.Option(help="A spec to consider. May be repeated. Default: a few.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Bandwidth of every link, such as 100mbit. Left out: loopback.")
    ] = None,
    ranks: Annotated[int, typer.Option(min=2, max=64, help="Processes, each on a link of its own.")] = 2,
    bucket_mb: Annotated[float, typer.Option(help="Megabytes that candidates exchange together.")] = 25.0,
    door: Annotated[
        str, typer.Option(help="ddp, module (no wrapper), or sharded: FSDP2 inside islands, gradwire between them.")
    ] = "ddp",
    island: Annotated[int, typer.Option(min=1, help="Ranks of an island, neighbours by number; 1: no islands.")] = 1,
    inside: Annotated[
        str | None, typer.Option(help="Rate inside an island, such as 100gbit. Left out: what is measured there.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Measure every method too, and compare.")] = False,
    seconds: Annotated[float, typer.Option(help="With --check: seconds to measure each method.")] = 20.0,
    optimizer: Annotated[
        str | None, typer.Option(help="adamw or sgd: rank by the time to a loss, where losses have been measured.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
) -> None:
    """Predict a step's time with every method on this machine, and with local steps, and say whether to compress.

    Under torchrun (torchrun --no-python gradwire advise ...) the network is taken as it is.
    """
    from gradwire.cli.advise import predict

    predict(model, candidate, rate, ranks, bucket_mb, door, island, inside, check, seconds, optimizer, output)
