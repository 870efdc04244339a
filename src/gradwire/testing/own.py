"""The law of exchanges about constants: omega and delta of `own`, measured over many seeds."""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.exchange import Exchange
from gradwire.layout import Layout
from gradwire.testing.constants import check_contraction, check_unbiased
from gradwire.testing.operators import vectors
from gradwire.testing.runs import Setup, one_step, start, turns
from gradwire.testing.trial import Law, normal

SMALL = Layout(["matrix", "bias", "scale"], [(5, 4), (3,), ()])
"""The layout for which constants are measured: a matrix, a vector and a scalar."""

DRAWS, CONTRACTIONS = 240, 60
"""Numbers of runs: to test a mean, and to test only a mean square. Compressors are tested alone with more draws."""


def own_keeps_its_constants(exchange: Exchange, law: Law, setup: Setup) -> None:
    """In the first step E own = x and E |own - x|^2 <= omega |x|^2 with an omega, <= (1 - delta) |x|^2 with a delta."""
    omega, delta = exchange.omega(SMALL.d), exchange.delta(SMALL.d)
    if omega is None and delta is None:
        return
    n = 2 if 2 in setup.workers else setup.some
    for name in ("normal", "equal values", "a spike"):
        x = vectors(SMALL.d, setup.seed)[name]
        count = CONTRACTIONS if omega is None else DRAWS
        with law.at(n=n, d=SMALL.d, x=name, draws=count, seed=setup.seed) as trial:
            y = _draws(exchange, x, n, count, setup.seed)
            if omega is not None:
                check_unbiased(trial, y, x, omega)
            if delta is not None:
                check_contraction(trial, y, x, delta)


def _draws(exchange: Exchange, x: Tensor, n: int, count: int, seed: int) -> Tensor:
    """f64[count, d]: in the first step of `count` runs, `own` of the worker that holds x; ranks take turns."""
    others = normal(n, SMALL.d, seed=seed + 1)
    found: list[Tensor] = []
    for draw in range(count):
        rank, xs = draw % n, others.clone()
        xs[rank] = x
        states = start(exchange, n, SMALL, torch.float64)
        sent = one_step(exchange, xs, states, turns(n, 0, SMALL, seed + draw, torch.float64))
        found.append(sent[rank].own.dense().double())
    return torch.stack(found)
