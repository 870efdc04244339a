"""Survey candidates: rehearse each on this rank, and average the predictions over the ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from gradwire.advice.doors import Exchanged
from gradwire.advice.rounds import LocalRound
from gradwire.advice.verdict import Method
from gradwire.advice.work import UnitWork, rehearse_units
from gradwire.spec import parse
from gradwire.transport.process import Process


def survey(
    exchanged: Exchanged,
    specs: Sequence[str],
    unit_bytes: float,
    seed: int = 0,
) -> dict[str, Sequence[UnitWork] | str]:
    """Rehearse every spec without a network; return its units' work, or in words why it cannot be rehearsed."""
    made: dict[str, Sequence[UnitWork] | str] = {}
    for spec in specs:
        try:
            made[spec] = rehearse_units(exchanged, parse(spec), unit_bytes, seed)
        except (ValueError, RuntimeError, IndexError, TypeError) as refusal:
            made[spec] = str(refusal).splitlines()[0]
    return made


def agreed(process: Process, device: torch.device, methods: Sequence[Method]) -> list[Method]:
    """Average the methods' figures over all ranks; a method that one rank could not predict is refused on all."""
    figures = [[m.seconds, m.traffic, math.nan if m.crossover is None else m.crossover] for m in methods]
    total = torch.tensor(figures, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=process.group)
    means = cast(list[list[float]], total.div_(process.size).tolist())
    return [
        replace(
            method,
            seconds=seconds,
            traffic=traffic,
            crossover=None if math.isnan(crossover) else crossover,
            refusal=method.refusal or ("" if math.isfinite(seconds) else "another rank cannot rehearse it"),
        )
        for method, (seconds, traffic, crossover) in zip(methods, means, strict=True)
    ]


def agreed_rounds(process: Process, device: torch.device, rounds: Sequence[LocalRound]) -> list[LocalRound]:
    """Average the rounds' figures over all ranks; an exchange that one rank could not rehearse is refused on all."""
    figures = [[r.step, r.computing, r.wire, r.traffic, float(bool(r.refusal))] for r in rounds]
    total = torch.tensor(figures, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=process.group)
    means = cast(list[list[float]], total.div_(process.size).tolist())
    return [
        LocalRound(one.exchange, *each, refusal=one.refusal or ("another rank cannot rehearse it" if refused else ""))
        for one, (*each, refused) in zip(rounds, means, strict=True)
    ]


def mean(process: Process, seconds: float, device: torch.device | str = "cpu") -> float:
    """The mean of a number of seconds over the ranks; a collective call."""
    total = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=process.group)
    return total.item() / process.size


def sound(gradients: Mapping[int, Tensor | None], params: Sequence[Tensor]) -> list[Tensor]:
    """Return a dense and finite gradient for every parameter, for rehearsals; zeros if it is missing or sparse."""
    return [_sound(gradients.get(number), param) for number, param in enumerate(params)]


def _sound(gradient: Tensor | None, param: Tensor) -> Tensor:
    if gradient is None or gradient.layout != torch.strided:
        return torch.zeros_like(param)
    return torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
