"""The law of exchanges about corrupted answers: a worker refuses them, or returns vectors of d values."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradwire.ask import Ask, Talk
from gradwire.exchange import Exchange
from gradwire.exchange.step import step
from gradwire.layout import Turn, bytes_of
from gradwire.testing.runs import Setup, gradients, start, turns
from gradwire.testing.trial import Law, Trial
from gradwire.transport import lockstep
from gradwire.vector import Sent, Sparse, Vector


def corrupted_answers_are_refused_or_stay_inside_d(exchange: Exchange, law: Law, setup: Setup) -> None:
    """A step whose answer has changed bytes raises ValueError or returns vectors of d values; no other error."""
    n = setup.some
    for number in range(2):  # the first step, and one that starts from a nonzero state
        answers = _answers(exchange, setup, n, number)
        for which, answer in enumerate(answers):
            for how, wrong in _corrupted(answer, setup.seed + which):
                with law.at(n=n, step=number, answer=which, bytes=how, seed=setup.seed) as trial:
                    _try(exchange, trial, setup, number, [*answers[:which], wrong, *answers[which + 1 :]])


def _answers(exchange: Exchange, setup: Setup, n: int, last: int) -> list[Tensor]:
    """Record every answer that worker 0 receives at step `last` of a run."""
    states, found = start(exchange, n, setup.layout, torch.float32), list[Tensor]()
    for number in range(last + 1):
        found.clear()
        xs, whose = gradients(n, setup.layout, setup.seed + number), _turns(setup, n, number)
        talks = [step(exchange, x, state, turn) for x, state, turn in zip(xs, states, whose, strict=True)]
        lockstep([_recorded(talks[0], found), *talks[1:]])
    return found


def _turns(setup: Setup, n: int, number: int) -> list[Turn]:
    return turns(n, number, setup.layout, setup.seed, torch.float32)


async def _recorded(talk: Talk[Sent], found: list[Tensor]) -> Sent:
    """Run a coroutine and append a copy of every answer sent to it to `found`."""
    answer: Tensor | None = None
    try:
        while True:
            answer = await talk.send(answer)  # type: ignore[arg-type]  # a fresh coroutine takes None
            found.append(answer.clone())
    except StopIteration as end:
        return end.value
    finally:
        talk.close()


def _corrupted(answer: Tensor, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors of the answer's shape and dtype with changed bytes, each with a name for the change."""
    if not answer.numel():
        return
    raw = bytes_of(answer)
    rng = torch.Generator().manual_seed(seed)
    one = raw.clone()
    one[int(torch.randint(len(raw), (), generator=rng))] ^= 1 + int(torch.randint(255, (), generator=rng))
    zeros, ones = torch.zeros_like(raw), torch.full_like(raw, 255)
    noise = torch.randint(256, raw.shape, generator=rng, dtype=torch.uint8)
    for how, wrong in (("one changed", one), ("zeros", zeros), ("ones", ones), ("random", noise)):
        yield how, wrong.view(answer.dtype).view(answer.shape)


def _try(exchange: Exchange, trial: Trial, setup: Setup, last: int, answers: list[Tensor]) -> None:
    """Run worker 0 up to step `last`, send it these answers there, and check its result."""
    n, d = setup.some, setup.layout.d
    states = start(exchange, n, setup.layout, torch.float32)
    for number in range(last):
        xs, whose = gradients(n, setup.layout, setup.seed + number), _turns(setup, n, number)
        lockstep([step(exchange, x, state, turn) for x, state, turn in zip(xs, states, whose, strict=True)])
    x, turn = gradients(n, setup.layout, setup.seed + last)[0], _turns(setup, n, last)[0]
    try:
        sent = _answered(step(exchange, x, states[0], turn), answers, n)
        for name, vector in (("own", sent.own), ("mean", sent.mean)):
            _check_inside(trial, name, vector, d)
    except ValueError:
        return
    except Exception as error:
        trial.fail(f"the worker ends in {type(error).__name__}: {error}")


def _answered(talk: Talk[Sent], answers: list[Tensor], n: int) -> Sent:
    """Run a coroutine on the given answers.

    An answer that does not fit the ask is replaced by the one that n workers with equal vectors would produce.
    """
    left, answer = iter(answers), None
    try:
        while True:
            ask: Ask = talk.send(answer)  # type: ignore[arg-type]  # a fresh coroutine takes None
            alone, given = ask.alone(n), next(left, None)
            fits = given is not None and given.shape == alone.shape and given.dtype == alone.dtype
            answer = given if fits else alone
    except StopIteration as end:
        return end.value
    finally:
        talk.close()


def _check_inside(trial: Trial, name: str, vector: Vector, d: int) -> None:
    if isinstance(vector, Sparse) and vector.indices.numel():
        low, high = int(vector.indices.min()), int(vector.indices.max())
        trial.require(low >= 0 and high < d, f"{name} has indices from {low} to {high}, where d is {d}")
    trial.require(tuple(vector.dense().shape) == (d,), f"{name} has shape {list(vector.dense().shape)}")
