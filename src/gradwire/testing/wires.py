"""The laws of compressors about invalid messages: `decode` refuses them, or returns a vector within bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from gradwire.compress.protocol import Compressor, Ragged
from gradwire.testing.operators import SIZES, check_message, turn
from gradwire.testing.trial import Law, Trial, normal

TRIES = 24
"""Messages of each kind in each dimension."""


def other_lengths_are_refused(op: Compressor, law: Law, seed: int) -> None:
    """`decode` raises ValueError for a message one byte too short, and for one longer than `nbytes(d)`."""
    for d in SIZES:
        with law.at(d=d, seed=seed) as trial:
            for x in (normal(d, seed=seed), normal(2, d, seed=seed)):
                wire = op.encode(x, turn(d, seed))
                shorter = [wire[..., :-1]] if wire.shape[-1] else []
                longer = torch.nn.functional.pad(wire, (0, op.nbytes(d) + 1 - wire.shape[-1]))
                for wrong in (*shorter, longer):
                    try:
                        op.decode(wrong, d)
                    except ValueError:
                        continue
                    trial.fail(f"{wrong.shape[-1]} bytes are decoded where a message takes {wire.shape[-1]}")


def any_bytes_decode_inside_d_or_are_refused(op: Compressor, law: Law, seed: int) -> None:
    """For any bytes of the right length, `decode` raises ValueError or returns d values with indices in [0, d)."""
    for d in SIZES:
        rng = torch.Generator().manual_seed(seed)
        for kind, wires in _wires(op, d, seed, rng).items():
            for number, wire in enumerate(wires):
                with law.at(d=d, bytes=f"{kind} {number}", seed=seed) as trial:
                    _decode_or_refuse(trial, op, wire, d)


def _decode_or_refuse(trial: Trial, op: Compressor, wire: Tensor, d: int) -> None:
    kept = wire.clone()
    try:
        message = op.decode(wire, d)
    except ValueError:
        return
    check_message(trial, message, (*wire.shape[:-1], d), f"what is decoded of {_shown(wire)}")
    trial.same(wire, kept, "decode writes into the wire")


def _wires(op: Compressor, d: int, seed: int, rng: torch.Generator) -> dict[str, list[Tensor]]:
    """Messages u8[..., m] by kind; fewer for large d."""
    tries = TRIES if d < 200 else 6
    real = [op.encode(normal(d, seed=seed + n), turn(d, seed, n)) for n in range(tries)]
    rows = op.encode(normal(3, d, seed=seed), turn(d, seed))
    lengths = _lengths(op, d, rng, tries)
    return {
        "random bytes": [_random((m,), rng) for m in lengths],
        "random rows": [_random((3, m), rng) for m in lengths[:4]],
        "all 255": [torch.full((m,), 255, dtype=torch.uint8) for m in lengths[:2]],
        "all 0": [torch.zeros(m, dtype=torch.uint8) for m in lengths[:2]],
        "few bits": [_random((m,), rng) & _random((m,), rng) & _random((m,), rng) for m in lengths[:8]],
        "a flipped bit": [_flipped(wire, 1, rng) for wire in real],
        "eight flipped bits": [_flipped(wire, 8, rng) for wire in real],
        "a flipped bit in a row": [_flipped(rows, 1, rng) for _ in range(4)],
        "bytes in another order": [wire[torch.randperm(wire.shape[-1], generator=rng)] for wire in real],
    }


def _lengths(op: Compressor, d: int, rng: torch.Generator, tries: int) -> list[int]:
    """Message lengths to try: always `nbytes(d)`, or for a ragged operator any length up to it."""
    most = op.nbytes(d)
    if not isinstance(op, Ragged):
        return [most] * tries
    return [most, most, *(int(m) for m in torch.randint(0, most + 1, (tries - 2,), generator=rng))]


def _random(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)


def _flipped(wire: Tensor, bits: int, rng: torch.Generator) -> Tensor:
    """A copy of the bytes with `bits` random bits flipped."""
    changed = wire.clone().view(-1)
    if changed.numel():
        for bit in torch.randint(0, 8 * changed.numel(), (bits,), generator=rng):
            changed[bit // 8] ^= 1 << int(bit % 8)
    return changed.view(wire.shape)


def _shown(wire: Tensor) -> str:
    """Format the first 16 bytes in hexadecimal, for an error message."""
    first = wire.flatten()[:16].numpy(force=True).tobytes().hex(" ")
    return f"the bytes {first}{' ...' if wire.numel() > 16 else ''}"
