"""The laws of compressors about form: bytes, shapes, dtypes, purity. Each public function is one law."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from gradwire.compress.protocol import Compressor, Direct
from gradwire.layout import Turn
from gradwire.spec import operator
from gradwire.testing.operators import (
    LARGEST,
    SIZES,
    check_message,
    hard_vectors,
    is_random,
    length,
    through,
    turn,
    vectors,
)
from gradwire.testing.specs import check_spec
from gradwire.testing.trial import Law, Trial, form, normal
from gradwire.vector import Message


def bytes_are_as_promised(op: Compressor, law: Law, seed: int) -> None:
    """`encode` returns u8[nbytes(d)], or u8[length <= nbytes(d)] if ragged, which `decode` reads as a vector [d]."""
    for d in SIZES:
        with law.at(d=d, seed=seed) as trial:
            promised = op.nbytes(d)
            trial.require(isinstance(promised, int) and promised >= 0, f"nbytes({d}) is {promised!r}")
            for name, x in vectors(d, seed).items():
                for vector in (x, x.float(), torch.zeros_like(x)):
                    wire = op.encode(vector, turn(d, seed))
                    trial.require(wire.dtype == torch.uint8, f"encode gives {form(wire)} for {name}, not bytes")
                    wanted = length(op, wire, d)
                    trial.require(
                        tuple(wire.shape) == (wanted,) and wanted <= promised,
                        f"encode gives {list(wire.shape)} bytes for {name}, length is {wanted}, nbytes {promised}",
                    )
                    check_message(trial, op.decode(wire, d), (d,), f"what is decoded of {name}")


def apply_is_decode_after_encode(op: Compressor, law: Law, seed: int) -> None:
    """`apply(x)`, if the operator has it, equals `decode(encode(x))` in x's dtype, up to rounding of float32 sums."""
    if not isinstance(op, Direct):
        return
    shapes = [(*rows, d) for d in SIZES for rows in ((), (5,), (2, 3)) if d < 1000 or len(rows) < 2]
    for shape, dtype, rank in product(shapes, (torch.float32, torch.float64), (0, slice(None))):
        who = "a rank" if rank == 0 else "all rows"
        with law.at(d=shape[-1], shape=list(shape), dtype=dtype, turn=who, seed=seed) as trial:
            x, whose = normal(*shape, seed=seed).to(dtype), turn(shape[-1], seed, 7, rank, shape[0])
            applied, decoded = op.apply(x, whose), through(op, x, whose).to(dtype)
            check_message(trial, applied, shape, "what apply gives")
            # A composition may add its parts in another order, which costs a few units in float32's last place.
            largest = float(decoded.abs().max()) if decoded.numel() else 0.0
            within = 4 * torch.finfo(torch.float32).eps * max(largest, 1.0)
            trial.close(applied.dense(), decoded, within, "apply and decode after encode differ")


def rows_are_vectors(op: Compressor, law: Law, seed: int) -> None:
    """Leading axes are rows: each row has its own bytes and decodes as it would alone.

    If the operator is deterministic, each row is also encoded as it would be alone.
    """
    random = is_random(op, seed)
    for d in SIZES:
        with law.at(d=d, seed=seed) as trial:
            x = normal(2, 3, d, seed=seed).float()
            wire = op.encode(x, turn(d, seed))
            trial.require(wire.shape[:-1] == x.shape[:-1], f"encode of {form(x)} gives {form(wire)}")
            trial.require(wire.shape[-1] == length(op, wire, d), f"encode of {form(x)} gives rows of {wire.shape[-1]}")
            message = op.decode(wire, d)
            check_message(trial, message, (2, 3, d), "what is decoded of rows")
            dense = message.dense()
            for row in ((0, 0), (1, 2)):
                alone = op.decode(wire[row], d).dense()
                trial.same(alone, dense[row], f"row {list(row)} decodes otherwise when it is alone")
                if not random:
                    single = through(op, x[row], turn(d, seed))
                    trial.same(single, dense[row], f"row {list(row)} is encoded otherwise when it is alone")


def operators_are_pure(op: Compressor, law: Law, seed: int) -> None:
    """The same turn gives the same bytes; x and the wire are not written; results share no memory with x."""
    for d in SIZES:
        for dtype in (torch.float32, torch.float64):
            for shape in ((d,), (3, d)):
                with law.at(d=d, shape=list(shape), dtype=dtype, seed=seed) as trial:
                    _check_pure(trial, op, normal(*shape, seed=seed).to(dtype), turn(d, seed))


def _check_pure(trial: Trial, op: Compressor, x: Tensor, whose: Turn) -> None:
    kept = x.clone()
    wire = op.encode(x, whose)
    trial.same(x, kept, "encode writes into x")
    trial.same(op.encode(x, whose), wire, "the same turn gives other bytes")
    sent = wire.clone()
    message: Message = op.decode(wire, x.shape[-1])
    trial.same(wire, sent, "decode writes into the wire")
    applied = message
    if isinstance(op, Direct):
        applied = op.apply(x, whose)
        trial.same(x, kept, "apply writes into x")
    decoded, direct = message.dense().clone(), applied.dense().clone()
    x.fill_(float("nan"))
    trial.same(wire, sent, "the wire shares memory with x")
    trial.same(message.dense(), decoded, "what is decoded shares memory with x")
    trial.same(applied.dense(), direct, "what apply gives shares memory with x")


def workers_draw_for_themselves(op: Compressor, law: Law, seed: int) -> None:
    """A random operator draws different numbers for another rank, another seed and other rows."""
    d = 60
    with law.at(d=d, seed=seed) as trial:
        if not is_random(op, seed, d):
            return
        x = normal(d, seed=seed)
        mine = [through(op, x, turn(d, seed, step, size=2)) for step in range(16)]
        for who, rank, other in (("another rank", 1, seed), ("another seed", 0, seed + 1)):
            theirs = [through(op, x, turn(d, other, step, rank, size=2)) for step in range(16)]
            alike = all(torch.equal(one, two) for one, two in zip(mine, theirs, strict=True))
            trial.require(not alike, f"{who} draws the same in 16 steps, though steps differ")
        rows = through(op, x.expand(64, d), turn(d, seed))
        trial.require(not bool((rows == rows[0]).all()), "64 equal rows draw the same, though steps differ")


def hard_inputs_stay_finite(op: Compressor, law: Law, seed: int, largest: float = LARGEST) -> None:
    """Finite inputs decode to finite values of the same shape: zeros, subnormal and large values, strides, float64.

    A non-contiguous vector gives the same bytes as its contiguous copy.
    """
    for d in (1, 7, 40, 1000):
        for name, x in hard_vectors(d, seed, largest).items():
            with law.at(d=d, x=name, seed=seed) as trial:
                t = turn(d, seed)
                wire = op.encode(x, t)
                trial.require(
                    tuple(wire.shape) == (*x.shape[:-1], length(op, wire, d)), f"encode gives {form(wire)} of {form(x)}"
                )
                message = op.decode(wire, d)
                check_message(trial, message, tuple(x.shape), "what is decoded")
                trial.require(bool(message.dense().isfinite().all()), "what is decoded is not finite")
                trial.same(op.encode(x.contiguous(), t), wire, "a copy without gaps gives other bytes")


def zeros_stay_zero(op: Compressor, law: Law, seed: int) -> None:
    """C(0) = 0, which follows from having an omega or a delta."""
    for d in SIZES:
        with law.at(d=d, seed=seed) as trial:
            if op.omega(d) is None and op.delta(d) is None:
                continue
            for shape in ((d,), (3, d)):
                dense = through(op, torch.zeros(shape), turn(d, seed))
                trial.close(dense, torch.zeros_like(dense), 0.0, "zeros decode to")


def the_repr_is_a_spec(op: Compressor, law: Law, seed: int) -> None:
    """Operators are values: hashable, and equal if their parameters are; a registered one's repr is its spec."""
    with law.at() as trial:
        check_spec(trial, op, operator)
