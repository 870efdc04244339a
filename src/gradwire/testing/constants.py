"""The laws of compressors about constants: omega and delta, measured over many draws."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradwire.compress.protocol import Compressor
from gradwire.testing.operators import SIZES, is_random, through, turn, vectors
from gradwire.testing.trial import Law, Trial, normal

DRAWS, CONTRACTIONS = 4000, 1000
"""Numbers of draws: to test a mean, and to test only a mean square."""

D = 60
"""The dimension d in which constants are measured."""

SIGMAS = 5.0
"""Tolerance in standard errors: a law that holds fails about once in a million trials, and seeds are fixed."""


def constants_are_numbers_in_range(op: Compressor, law: Law, seed: int) -> None:
    """omega is None or finite and at least 0; delta is None or in [0, 1]; in every dimension."""
    for d in SIZES:
        with law.at(d=d) as trial:
            omega, delta = op.omega(d), op.delta(d)
            trial.require(omega is None or 0 <= omega < math.inf, f"omega({d}) is {omega!r}")
            trial.require(delta is None or 0 <= delta <= 1, f"delta({d}) is {delta!r}")


def unbiased_with_variance_omega(op: Compressor, law: Law, seed: int) -> None:
    """If omega is not None: E C(x) = x and E |C(x) - x|^2 <= omega |x|^2."""
    omega = op.omega(D)
    if omega is None:
        return
    for name, x in vectors(D, seed).items():
        with law.at(d=D, x=name, draws=DRAWS, seed=seed) as trial:
            check_unbiased(trial, draws(op, x, DRAWS, seed), x, omega)


def contracts_by_delta(op: Compressor, law: Law, seed: int) -> None:
    """If delta is not None: E |C(x) - x|^2 <= (1 - delta) |x|^2."""
    delta = op.delta(D)
    if delta is None:
        return
    for name, x in vectors(D, seed).items():
        with law.at(d=D, x=name, draws=CONTRACTIONS, seed=seed) as trial:
            check_contraction(trial, draws(op, x, CONTRACTIONS, seed), x, delta)


def rows_err_as_vectors_do(op: Compressor, law: Law, seed: int) -> None:
    """The mean squared error over many equal rows equals that of one vector over many steps.

    So the constants hold for rows, too.
    """
    x = normal(D, seed=seed)
    with law.at(d=D, draws=400, seed=seed) as trial:
        if not is_random(op, seed):
            return  # "rows are vectors" already requires that each row is encoded as if it were alone
        rows = (draws(op, x, 400, seed) - x).square().sum(-1)
        alone = torch.stack([through(op, x, turn(D, seed, step)).double() for step in range(400)])
        single = (alone - x).square().sum(-1)
        sigma = float(((rows.var() + single.var()) / 400).sqrt())
        trial.require(
            abs(float(rows.mean() - single.mean())) <= SIGMAS * sigma + 1e-6 * float(x.square().sum()),
            f"|C(x) - x|^2 is {float(rows.mean()):.6g} on average over rows, {float(single.mean()):.6g} over steps",
        )


def draws(op: Compressor, x: Tensor, count: int, seed: int) -> Tensor:
    """f64[count, d]: `count` independent applications of an operator to x."""
    return through(op, x.expand(count, -1), turn(len(x), seed)).double()


def check_unbiased(trial: Trial, y: Tensor, x: Tensor, omega: float) -> None:
    """Fail unless draws y f64[count, d] have the mean x and a mean squared error of at most omega |x|^2."""
    count, average = len(y), y.mean(0)
    sigma = y.std(0) / math.sqrt(count)
    # With fewer than 30 deviating draws the normal approximation fails: none, or twice as many, were as likely.
    rare = (y != y.median(0).values).sum(0) < 30
    unseen = torch.where(rare, 30 / count * (y - average).abs().amax(), 0.0)
    # Messages carry float32, which rounds by up to 2^-24 of a value.
    allowed = SIGMAS * sigma + unseen + 2**-23 * y.abs().amax(0)
    excess = (average - x).abs() - allowed
    if bool((excess > 0).any()):
        place = int(excess.argmax())
        trial.fail(
            f"omega = {omega:.6g} promises E C(x) = x, and element {place} is {float(x[place]):.6g} but "
            f"{float(average[place]):.6g} on average, where {float(allowed[place]):.3g} is allowed"
        )
    _check_errors(trial, y, x, omega, f"omega = {omega:.6g}")


def check_contraction(trial: Trial, y: Tensor, x: Tensor, delta: float) -> None:
    """Fail unless draws y f64[count, d] have a mean squared error of at most (1 - delta) |x|^2."""
    _check_errors(trial, y, x, 1 - delta, f"delta = {delta:.6g}")


def _check_errors(trial: Trial, y: Tensor, x: Tensor, relative: float, promise: str) -> None:
    errors, square = (y - x).square().sum(-1), float(x.square().sum())
    noise = SIGMAS * float(errors.std()) / math.sqrt(len(y))
    # 1e-6: if the error is the same in every draw, `noise` is 0 and float32's rounding of the values remains.
    allowed = relative * square * (1 + 1e-6) + noise + 2**-40
    trial.require(
        float(errors.mean()) <= allowed,
        f"{promise} promises E |C(x) - x|^2 <= {relative:.6g} |x|^2, and it is {float(errors.mean()) / square:.6g} "
        f"|x|^2, where {allowed / square:.6g} is allowed",
    )
