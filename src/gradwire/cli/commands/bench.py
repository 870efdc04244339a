"""The options of `gradwire bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradwire.cli.commands.shared import Model


def bench_command(
    model: Model = "mlp",
    method: Annotated[
        list[str] | None,
        typer.Option(help="A spec, or dense, fp16, powersgd4, auto. May be repeated. Default: one of each kind."),
    ] = None,
    rate: Annotated[
        list[str] | None, typer.Option(help="Bandwidth of every link, such as 100mbit, or loopback. May be repeated.")
    ] = None,
    ranks: Annotated[
        list[str] | None, typer.Option(help="Processes, such as 4 or 2,4,8; 2 by default. May be repeated.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Timed steps of every method.")] = 20,
    seconds: Annotated[float, typer.Option(help="Time limit for each method on each link.")] = 60.0,
    bucket_mb: Annotated[float, typer.Option(help="Megabytes that gradwire's methods exchange together.")] = 25.0,
    here: Annotated[
        bool, typer.Option("--here", help="Use the network as it is: torchrun ... -m gradwire bench --here.")
    ] = False,
    output: Annotated[Path, typer.Option(help="The page; its data goes beside it as .json and .csv.")] = Path(
        "gradwire-bench.html"
    ),
) -> None:
    """Measure a step of training: compute, selection, wire, wait and bytes, per method, link and number of ranks."""
    from gradwire.cli.bench import measure

    measure(model, method, rate, ranks, steps, seconds, bucket_mb, here, output)
