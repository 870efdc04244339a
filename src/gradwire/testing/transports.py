"""The laws of exchanges about transports: batched equals n workers, and answers keep their dtype everywhere."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from gradwire.ask import AllGather, AllToAll, Among, Ask, Talk, describe
from gradwire.exchange import Exchange
from gradwire.exchange.law import law_broken
from gradwire.exchange.step import step
from gradwire.layout import Layout, Turn
from gradwire.simulator import Round, Simulator
from gradwire.testing.runs import Setup, gradients, params, runs_batched, start, turns
from gradwire.testing.trial import Law, Trial, form, normal
from gradwire.transport import ALL_ROWS, batched, lockstep
from gradwire.transport.rehearsal import rehearse
from gradwire.vector import Sent

SMALL = Layout(["w", "b"], [(3, 4), (3,)])
"""The layout for which distributions are compared: few elements, so that many seeds are affordable."""

SEEDS = 120


def answers_keep_their_dtype(exchange: Exchange, law: Law, setup: Setup) -> None:
    """In lockstep, batched and in rehearsals every answer has its ask's dtype and the shape that the ask defines."""
    n, layout = setup.some, setup.layout
    for dtype in (torch.float32, torch.float64):
        where = {"n": n, "dtype": dtype, "seed": setup.seed}
        with law.at(transport="lockstep", **where) as trial:
            lockstep(_workers(exchange, trial, setup, n, dtype))
        with law.at(transport="a rehearsal of all workers", **where) as trial:
            rehearse(_workers(exchange, trial, setup, n, dtype), n)
        # One worker stands for all n: an exchange may refuse it, as all of them bringing equal messages may be invalid.
        with law.at(transport="a rehearsal of one worker", **where) as trial, suppress(ValueError, RuntimeError):
            rehearse(_workers(exchange, trial, setup, 1, dtype, size=n), n)
        if runs_batched(exchange, n, layout):
            with law.at(transport="batched", **where) as trial:
                batched(_batch(exchange, trial, setup, n, dtype), n)


def a_batch_is_n_workers(exchange: Exchange, law: Law, setup: Setup) -> None:
    """If an exchange runs batched, the law holds there, and its bytes and, up to rounding, results are lockstep's.

    If workers draw independent random numbers, results agree in distribution, over many seeds.
    """
    for n in sorted({1, setup.some} & set(setup.workers)):
        if not runs_batched(exchange, n, setup.layout):
            return
        own = draws_of_its_own(exchange, setup, n)
        batch_obeys_the_law(
            exchange, law, setup, n, bytes_are_certain=not own or _bytes_are_certain(exchange, setup, n)
        )
        if not own:
            batch_equals_lockstep(exchange, law, setup, n)
    if draws_of_its_own(exchange, setup, setup.some):
        batch_equals_in_distribution(exchange, law, setup)


def batch_obeys_the_law(exchange: Exchange, law: Law, setup: Setup, n: int, *, bytes_are_certain: bool = True) -> None:
    """Batched, the average of `own` is the mean, and the ledger counts lockstep's calls, bytes and traffic."""
    one, many = simulators(exchange, setup, n)
    for number in range(5):
        with law.at(n=n, step=number, seed=setup.seed) as trial:
            xs = normal(n, setup.layout.d, seed=setup.seed + number)
            one.step(xs, params(setup.layout, xs.dtype), lr=0.1)
            sent = many.step(xs, params(setup.layout, xs.dtype), lr=0.1)
            wrong = law_broken(list(sent.own), [sent.mean], 1e-9, 1e-12)
            trial.require(wrong is None, f"batched, {wrong}")
    if not bytes_are_certain:
        return
    with law.at(n=n, steps=5, seed=setup.seed) as trial:
        for kind, entry in one.ledger.entries.items():
            other = many.ledger.entries[kind]
            mine, theirs = (entry.calls, entry.bytes), (other.calls, other.bytes)
            trial.require(mine == theirs, f"lockstep counts {kind} {mine} (calls, bytes), batched {theirs}")
            trial.require(
                abs(entry.traffic - other.traffic) <= 1e-12 * entry.traffic,
                f"lockstep counts {entry.traffic} bytes of traffic by {kind}, batched {other.traffic}",
            )


def batch_equals_lockstep(exchange: Exchange, law: Law, setup: Setup, n: int) -> None:
    """`own` and `mean` equal lockstep's within float64's rounding, as sums may be taken in another order."""
    one, many = simulators(exchange, setup, n)
    for number in range(8):
        with law.at(n=n, step=number, seed=setup.seed) as trial:
            xs = normal(n, setup.layout.d, seed=setup.seed + number)
            want, got = (sim.step(xs, params(setup.layout, xs.dtype), lr=0.1) for sim in (one, many))
            _check_close(trial, got.mean, want.mean, "the mean, batched and in lockstep")
            _check_close(trial, got.own, want.own, "own, batched and in lockstep")


def batch_equals_in_distribution(exchange: Exchange, law: Law, setup: Setup) -> None:
    """First and second moments, over many seeds, of projections of the second step's mean agree within 5 sigma."""
    n = setup.some
    with law.at(n=n, d=SMALL.d, seeds=SEEDS) as trial:
        directions, vectors = normal(SMALL.d, 3, seed=0), normal(2, n, SMALL.d, seed=1)
        found: list[Tensor] = []
        for is_batched in (False, True):
            last: list[Tensor] = []
            for seed in range(SEEDS):
                sim = Simulator(exchange, SMALL, n, seed=seed, batched=is_batched)
                last.append([sim.step(xs, params(SMALL, xs.dtype), lr=0.1).mean for xs in vectors][-1])
            moments = torch.stack(last) @ directions
            found.append(torch.cat([moments, moments.square()], 1))
        sigma = ((found[0].var(0) + found[1].var(0)) / SEEDS).sqrt()
        gap = (found[0].mean(0) - found[1].mean(0)).abs()
        wrong = gap > 5 * sigma + 1e-9
        place = int((gap - 5 * sigma).argmax())
        trial.require(
            not bool(wrong.any()),
            f"a moment of the mean is {float(found[1][:, place].mean()):.6g} batched and "
            f"{float(found[0][:, place].mean()):.6g} in lockstep, where {5 * float(sigma[place]):.3g} is allowed",
        )


def draws_of_its_own(exchange: Exchange, setup: Setup, n: int) -> bool:
    """Whether workers draw independent random numbers: the seed matters, and equal vectors give different `own`."""
    layout, kinds = setup.layout, list[Round]()
    sims = [Simulator(exchange, layout, n, seed=setup.seed + which) for which in (0, 1)]
    for number in range(6):
        xs = normal(1, layout.d, seed=setup.seed + number).expand(n, -1)
        kinds += [sim.step(xs, params(layout, xs.dtype), lr=0.1) for sim in sims]
    seeded = any(not torch.equal(a.own, b.own) for a, b in zip(kinds[::2], kinds[1::2], strict=True))
    return seeded and (n == 1 or any(bool((a.own != a.own[0]).any()) for a in kinds))


def simulators(exchange: Exchange, setup: Setup, n: int) -> tuple[Simulator, Simulator]:
    """Simulators of the same run, in lockstep and batched."""
    one, many = (Simulator(exchange, setup.layout, n, setup.seed, batched=is_batched) for is_batched in (False, True))
    return one, many


def _bytes_are_certain(exchange: Exchange, setup: Setup, n: int) -> bool:
    """Whether runs with different seeds send the same number of bytes."""
    counts: set[int] = set()
    for seed in range(8):
        sim = Simulator(exchange, setup.layout, n, seed)
        for number in range(5):
            sim.step(normal(n, setup.layout.d, seed=number), params(setup.layout, torch.float64), lr=0.1)
        counts.add(sim.ledger.bytes)
    return len(counts) == 1


def _check_close(trial: Trial, found: Tensor, wanted: Tensor, words: str) -> None:
    """Fail unless `found` equals `wanted` within 1e-10 |wanted| + 1e-12 and has its dtype."""
    wrong = (found - wanted).abs() > 1e-12 + 1e-10 * wanted.abs()
    if found.dtype != wanted.dtype or bool(wrong.any()):
        trial.same(found, wanted, words)


async def _checked(talk: Talk[Sent], trial: Trial, n: int, rows: bool = False) -> Sent:
    """Run a coroutine and check dtype and shape of every answer sent to it."""
    answer: Tensor | None = None
    try:
        while True:
            ask = talk.send(answer)  # type: ignore[arg-type]  # a fresh coroutine takes None
            answer = await ask
            _check_answer(trial, ask, answer, n, rows)
    except StopIteration as end:
        return end.value
    finally:
        talk.close()


def _check_answer(trial: Trial, ask: Ask, answer: Tensor, n: int, rows: bool) -> None:
    if not isinstance(ask, Among):
        wanted = _form_of(ask, n, rows)
    elif rows:  # in a batch every group has its own answer
        wanted = n // ask.axis.size, *_form_of(ask.ask.bringing(ask.x[: ask.axis.size]), ask.axis.size, rows)
    else:
        wanted = _form_of(ask.ask, ask.axis.size, rows)
    trial.require(
        answer.dtype == ask.x.dtype and tuple(answer.shape) == wanted,
        f"the answer to {describe(ask)} is {form(answer)}",
    )


def _form_of(ask: Ask, n: int, rows: bool) -> tuple[int, ...]:
    """The shape of the answer to an ask among n workers, or, with `rows`, to the ask of their batch."""
    shape = tuple(ask.x.shape)
    if isinstance(ask, AllGather):
        return shape if rows else (n, *shape)
    return shape[1:] if rows and not isinstance(ask, AllToAll) else shape


def _workers(
    exchange: Exchange, trial: Trial, setup: Setup, n: int, dtype: torch.dtype, size: int | None = None
) -> list[Talk[Sent]]:
    """Coroutines of the first n of `size` workers, with every answer checked."""
    layout, size = setup.layout, size or n
    xs, whose = gradients(size, layout, setup.seed, dtype), turns(size, 0, layout, setup.seed, dtype)
    parts = zip(xs[:n], start(exchange, n, layout, dtype), whose[:n], strict=True)
    return [_checked(step(exchange, x, state, turn), trial, size) for x, state, turn in parts]


def _batch(exchange: Exchange, trial: Trial, setup: Setup, n: int, dtype: torch.dtype) -> Talk[Sent]:
    """One coroutine for all n workers, with every answer checked."""
    xs, known = gradients(n, setup.layout, setup.seed, dtype), params(setup.layout, dtype)
    turn = Turn(ALL_ROWS, n, 0, setup.layout, setup.seed, params=lambda: known, lr=0.1)
    state = exchange.init(setup.layout, dtype, batch_shape=(n,))
    return _checked(step(exchange, xs, state, turn), trial, n, rows=True)
