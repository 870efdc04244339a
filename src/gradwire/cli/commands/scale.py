"""The options of `gradwire scale`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradwire.cli.commands.shared import Model


def scale_command(
    model: Model = "mlp",
    method: Annotated[
        list[str] | None,
        typer.Option(help="A spec, dense, or local(every=30). May be repeated. Default: one of each kind."),
    ] = None,
    workers: Annotated[
        list[str] | None, typer.Option(help="Numbers of workers, such as 2,8,64 (default); up to 4096.")
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="Bandwidth of slow links, such as 100mbit. May be repeated. Default: three rates."),
    ] = None,
    latency_us: Annotated[float, typer.Option(help="Latency of a slow link in microseconds.")] = 50.0,
    island: Annotated[int, typer.Option(help="Workers of an island that share one slow link; 1: a link each.")] = 1,
    inside: Annotated[str, typer.Option(help="Rate of the links inside an island.")] = "100gbit",
    compute_ms: Annotated[
        float | None, typer.Option(help="Milliseconds of a step without communication. Left out: measured here.")
    ] = None,
    bucket_mb: Annotated[float, typer.Option(help="Megabytes that are exchanged together.")] = 25.0,
    output: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
) -> None:
    """Predict a step's time, bytes and memory with any number of workers: rehearsed work and a model of the links."""
    from gradwire.cli.scale import predict

    predict(model, method, workers, rate, latency_us, island, inside, compute_ms, bucket_mb, output)
