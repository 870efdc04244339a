"""The laws of exchanges: equal means, `own` that average to the mean, states, dtypes. Each function is one law."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradwire.exchange import Exchange, State
from gradwire.layout import Layout
from gradwire.spec import parse
from gradwire.testing.runs import (
    Setup,
    check_sent,
    flat,
    gradients,
    one_step,
    run,
    start,
    turns,
)
from gradwire.testing.specs import check_spec
from gradwire.testing.trial import Law, Trial, form
from gradwire.transport import Disagreement

TINY = [[(0,)], [(1,)], [(0,), (3,), (0,)], [(2, 2)]]
"""Shapes of layouts with no or few elements."""


def all_workers_know_one_mean(exchange: Exchange, law: Law, setup: Setup) -> None:
    """All workers return the same mean, bit for bit, and the average of their `own` is that mean, up to rounding."""
    for n in setup.workers:
        with law.at(n=n, seed=setup.seed):
            for step, _, _, sent in run(exchange, n, setup.layout, setup.seed, torch.float64):
                with law.at(n=n, step=step, seed=setup.seed) as trial:
                    # Messages carry float32 at most and are averaged in float64, so only float64's rounding remains,
                    # and for shifted methods the difference in rounding of h + (1 - alpha) m and h_old + m.
                    check_sent(trial, sent, 1e-9, 1e-12)


def the_law_holds_in_the_dtypes_of_training(exchange: Exchange, law: Law, setup: Setup) -> None:
    """The law also holds for x in float32, bfloat16 and float16, up to the rounding of the mean's dtype."""
    n = setup.some
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with law.at(n=n, dtype=dtype, seed=setup.seed):
            for step, _, _, sent in run(exchange, n, setup.layout, setup.seed, dtype, steps=3):
                with law.at(n=n, dtype=dtype, step=step, seed=setup.seed) as trial:
                    mean = sent[0].mean.dense()
                    trial.require(
                        torch.promote_types(mean.dtype, dtype) == mean.dtype, f"the mean of {dtype} is {form(mean)}"
                    )
                    eps = torch.finfo(mean.dtype).eps
                    check_sent(trial, sent, 4 * eps, 8 * eps)


def x_is_only_read(exchange: Exchange, law: Law, setup: Setup) -> None:
    """A step does not write x, and its results share no memory with x."""
    for n in sorted({1, setup.some} & set(setup.workers)) or setup.workers[:1]:
        states = start(exchange, n, setup.layout, torch.float32)
        for step in range(3):
            with law.at(n=n, step=step, seed=setup.seed) as trial:
                xs = gradients(n, setup.layout, setup.seed + step)
                kept = xs.clone()
                sent = one_step(exchange, xs, states, turns(n, step, setup.layout, setup.seed, torch.float32))
                trial.same(xs, kept, "x is written to")
                before = [(worker.own.dense().clone(), worker.mean.dense().clone()) for worker in sent]
                xs.fill_(float("nan"))
                for worker, (own, mean) in zip(sent, before, strict=True):
                    trial.same(worker.own.dense(), own, "own shares memory with x")
                    trial.same(worker.mean.dense(), mean, "mean shares memory with x")


def the_seed_decides(exchange: Exchange, law: Law, setup: Setup) -> None:
    """Two runs with the same seed are bit-equal."""
    n = setup.some
    first, second = (_means(exchange, n, setup, setup.seed) for _ in range(2))
    with law.at(n=n, seed=setup.seed) as trial:
        trial.same(first, second, "two runs of one seed have other means")


def tiny_vectors_are_ordinary(exchange: Exchange, law: Law, setup: Setup) -> None:
    """For vectors of no, one or a few elements, `init` raises ValueError or the law holds."""
    n = setup.some
    for shapes in TINY:
        layout = Layout([f"p{i}" for i in range(len(shapes))], shapes)
        with law.at(n=n, shapes=shapes, seed=setup.seed) as trial:
            try:
                exchange.init(layout)
            except ValueError:
                continue
            ones = torch.ones(n, layout.d)
            for _, _, _, sent in run(exchange, n, layout, setup.seed, steps=3, vectors=lambda _, x=ones: x.clone()):
                trial.require(sent[0].mean.dense().shape == (layout.d,), f"mean is {form(sent[0].mean.dense())}")
                check_sent(trial, sent, 1.3e-6, 1e-5)


def zeros_stay_zero(exchange: Exchange, law: Law, setup: Setup) -> None:
    """If every worker's x is zero from the first step on, the mean is zero."""
    for n in sorted({1, setup.some} & set(setup.workers)) or setup.workers[:1]:
        zeros = torch.zeros(n, setup.layout.d)
        states = start(exchange, n, setup.layout, torch.float32)
        for step in range(3):
            with law.at(n=n, step=step, seed=setup.seed) as trial:
                whose = turns(n, step, setup.layout, setup.seed, zeros.dtype, model=zeros[0])
                for worker in one_step(exchange, zeros.clone(), states, whose):
                    trial.close(worker.mean.dense(), zeros[0], 0.0, "the mean of zeros is not zero")


def workers_ask_alike(exchange: Exchange, law: Law, setup: Setup) -> None:
    """Workers with very different vectors ask for the same collectives in the same order: no Disagreement."""
    n = setup.some
    for name, make in _UNLIKE.items():
        with law.at(n=n, vectors=name, seed=setup.seed) as trial:
            vectors = [make(gradients(n, setup.layout, setup.seed + step)) for step in range(3)]
            try:
                for _, _, _, sent in run(
                    exchange, n, setup.layout, setup.seed, steps=3, vectors=lambda step, v=vectors: v[step].clone()
                ):
                    check_sent(trial, sent, 1e-5, 1e-5 * float(vectors[0].abs().max()))
            except Disagreement as error:
                trial.fail(f"{error}")


def states_keep_their_form(exchange: Exchange, law: Law, setup: Setup) -> None:
    """A state keeps its names and dtypes, which are the same on all workers; floats are at least float32.

    A tensor may be narrower only if `init` makes it so for float32. A vector [d] keeps its length. Any other tensor is
    replicated: equal on all workers, of a shape that may change.
    """
    n, layout = setup.some, setup.layout
    for dtype in (torch.float32, torch.bfloat16):
        begun = flat(exchange.init(layout, torch.float32))
        for step, _, states, _ in run(exchange, n, layout, setup.seed, dtype):
            with law.at(n=n, dtype=dtype, step=step, seed=setup.seed) as trial:
                first, *others = (flat(state) for state in states)
                check_form(trial, begun, first, layout.d)
                for rank, other in enumerate(others, 1):
                    check_alike(trial, first, other, rank, layout.d)


def what_is_not_sent_is_kept(exchange: Exchange, law: Law, setup: Setup) -> None:
    """If the state has an "error": sum (x + error) over workers = n * mean + sum of the new errors.

    An error kept in a narrower dtype is rounded when x is added and when own is subtracted, each time by at most one
    unit in the last place.
    """
    layout = setup.layout
    begun = exchange.init(layout, torch.float64).get("error")
    if not isinstance(begun, Tensor):
        return
    unit = 0.0 if begun.dtype == torch.float64 else torch.finfo(begun.dtype).eps
    for n in setup.workers:
        errors = torch.zeros(n, layout.d, dtype=torch.float64)
        for step, xs, states, sent in run(exchange, n, layout, setup.seed, torch.float64, steps=6):
            with law.at(n=n, step=step, seed=setup.seed) as trial:
                owed = xs + errors
                errors = torch.stack([_error(state) for state in states]).double()
                own = torch.stack([worker.own.dense() for worker in sent])
                within = 1e-12 * max(1.0, float(owed.abs().sum(0).max()))
                rounded = unit * (1 + unit) * (owed.abs() + errors.abs())
                trial.close(own + errors, owed, within + rounded, "own plus the new error is not x plus the old error")
                total, allowed = n * sent[0].mean.dense() + errors.sum(0), n * within + rounded.sum(0)
                trial.close(total, owed.sum(0), allowed, "n times the mean plus all errors is not what came in")


def the_repr_is_a_spec(exchange: Exchange, law: Law, setup: Setup) -> None:
    """Exchanges are values: hashable, and equal if their parameters are; a registered one's repr is its spec."""
    with law.at() as trial:
        check_spec(trial, exchange, parse)


def _means(exchange: Exchange, n: int, setup: Setup, seed: int) -> Tensor:
    """f[steps, d]: the means of a run; `seed` seeds the turns, while the vectors depend on `setup` only."""
    states, layout = start(exchange, n, setup.layout, torch.float32), setup.layout
    means: list[Tensor] = []
    for step in range(5):
        xs = gradients(n, layout, setup.seed + step)
        sent = one_step(exchange, xs, states, turns(n, step, layout, seed, torch.float32))
        means.append(sent[0].mean.dense().clone())
    return torch.stack(means)


def _spikes(xs: Tensor) -> Tensor:
    """Multiply some elements by 1000 in place, at other indices for every worker."""
    for rank, x in enumerate(xs):
        x[rank :: len(xs) + 1] *= 1e3
    return xs


_UNLIKE: dict[str, Callable[[Tensor], Tensor]] = {
    "one worker's is zero": lambda xs: torch.cat([torch.zeros_like(xs[:1]), xs[1:]]),
    "one worker's is a million times larger": lambda xs: torch.cat([xs[:-1], xs[-1:] * 1e6]),
    "one worker's is constant": lambda xs: torch.cat([torch.ones_like(xs[:1]), xs[1:]]),
    "large at different places": _spikes,
    "opposite signs": lambda xs: torch.cat([xs[:1], -xs[:1], xs[2:]]),
}


def check_form(trial: Trial, begun: dict[str, Tensor], state: dict[str, Tensor], d: int) -> None:
    """Fail unless a state has the names and dtypes that `init` gave it, floats of float32 or more, and vectors [d]."""
    trial.require(begun.keys() == state.keys(), f"init names {sorted(begun)}, and a step leaves {sorted(state)}")
    for name, part in state.items():
        wide = (torch.float32, torch.float64, begun[name].dtype)
        narrow = part.is_floating_point() and part.dtype not in wide
        trial.require(not narrow, f"{name} is {form(part)}, narrower than float32")
        trial.require(part.dtype == begun[name].dtype, f"{name} was {form(begun[name])} and is {form(part)}")
        vector = begun[name].shape == (d,)
        trial.require(not vector or part.shape == (d,), f"{name} was {form(begun[name])} and is {form(part)}")


def check_alike(trial: Trial, first: dict[str, Tensor], other: dict[str, Tensor], rank: int, d: int) -> None:
    """Fail unless two workers' states agree in every replicated tensor; vectors [d] may differ."""
    for name, part in first.items():
        if part.shape == (d,) and other[name].shape == (d,):
            continue
        trial.same(other[name], part, f"{name}, which is replicated, differs between worker {rank} and worker 0")


def _error(state: State) -> Tensor:
    error = state["error"]
    if isinstance(error, dict):
        raise TypeError("error is a nest of tensors")
    return error.clone()
