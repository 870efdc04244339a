"""The laws by name, and the two functions that check them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

from gradwire.compress.protocol import Compressor
from gradwire.exchange import Exchange
from gradwire.layout import Layout
from gradwire.reprs import describe
from gradwire.spec import as_exchange, operator
from gradwire.testing import answers, change, compressor, constants, exchange, own, transports, wires
from gradwire.testing.operators import LARGEST
from gradwire.testing.runs import Setup
from gradwire.testing.trial import LAYOUT, Law

CompressorLaw: TypeAlias = Callable[[Compressor, Law, int], None]
ExchangeLaw: TypeAlias = Callable[[Exchange, Law, Setup], None]
L = TypeVar("L", CompressorLaw, ExchangeLaw)


def _by_name(*laws: L) -> dict[str, L]:
    return {law.__name__.replace("_", " "): law for law in laws}


COMPRESSOR_LAWS: Mapping[str, CompressorLaw] = _by_name(
    compressor.bytes_are_as_promised,
    compressor.apply_is_decode_after_encode,
    compressor.rows_are_vectors,
    compressor.operators_are_pure,
    compressor.workers_draw_for_themselves,
    compressor.hard_inputs_stay_finite,
    compressor.zeros_stay_zero,
    compressor.the_repr_is_a_spec,
    wires.other_lengths_are_refused,
    wires.any_bytes_decode_inside_d_or_are_refused,
    constants.constants_are_numbers_in_range,
    constants.unbiased_with_variance_omega,
    constants.contracts_by_delta,
    constants.rows_err_as_vectors_do,
)
"""The laws of compressors by name; a law's docstring states what it requires."""

EXCHANGE_LAWS: Mapping[str, ExchangeLaw] = _by_name(
    exchange.all_workers_know_one_mean,
    exchange.the_law_holds_in_the_dtypes_of_training,
    exchange.x_is_only_read,
    exchange.the_seed_decides,
    exchange.tiny_vectors_are_ordinary,
    exchange.zeros_stay_zero,
    exchange.workers_ask_alike,
    exchange.states_keep_their_form,
    exchange.what_is_not_sent_is_kept,
    change.workers_come_and_go,
    exchange.the_repr_is_a_spec,
    transports.answers_keep_their_dtype,
    transports.a_batch_is_n_workers,
    answers.corrupted_answers_are_refused_or_stay_inside_d,
    own.own_keeps_its_constants,
)
"""The laws of exchanges by name; a law's docstring states what it requires."""


def check_compressor(
    op: Compressor | str, *, laws: Iterable[str] | None = None, seed: int = 0, largest: float = LARGEST
) -> None:
    """Check the laws of compressors on an operator or its spec. Takes about a second.

    Args:
        op: the operator, or a spec such as "topk(density=0.1)".
        laws: names from `COMPRESSOR_LAWS`; by default all.
        seed: seeds the test vectors and the operator's randomness.
        largest: a magnitude of inputs for which decoded values must still be finite.

    Raises:
        BrokenLaw: a law does not hold; the message names the first such law and the case.
        TypeError: `op` is not a compressor.
        ValueError: `laws` contains an unknown name.
    """
    op = operator(op) if isinstance(op, str) else op
    if not isinstance(op, Compressor) or isinstance(op, type):
        raise TypeError(f"check_compressor takes a compressor or its spec, got {describe(op)}")
    for name in _chosen(COMPRESSOR_LAWS, laws):
        law = COMPRESSOR_LAWS[name]
        if law is compressor.hard_inputs_stay_finite:
            law = partial(compressor.hard_inputs_stay_finite, largest=largest)
        law(op, Law(name, describe(op)), seed)


def check_exchange(
    exchange: Exchange | str,
    *,
    laws: Iterable[str] | None = None,
    workers: Sequence[int] = (1, 2, 3, 5),
    layout: Layout = LAYOUT,
    seed: int = 7,
) -> None:
    """Check the laws of exchanges on an exchange or its spec. Takes a second or a few.

    Args:
        exchange: the exchange, or a spec such as "ef(topk(density=0.1))".
        laws: names from `EXCHANGE_LAWS`; by default all. Leave out "what is not sent is kept" for an exchange whose
            state "error" purposely keeps less than everything that was not sent.
        workers: the numbers of workers to run with.
        layout: names and shapes of the tensors that make up a vector.
        seed: seeds the test vectors and the exchange's randomness.

    Raises:
        BrokenLaw: a law does not hold; the message names the first such law and the case.
        TypeError: `exchange` is not an exchange.
        ValueError: `laws` contains an unknown name.
    """
    exchange = as_exchange(exchange, "check_exchange")
    setup = Setup(tuple(workers), layout, seed)
    for name in _chosen(EXCHANGE_LAWS, laws):
        EXCHANGE_LAWS[name](exchange, Law(name, describe(exchange)), setup)


def _chosen(known: Mapping[str, object], laws: Iterable[str] | None) -> list[str]:
    """Return the names of the laws to check, by default all; ValueError for an unknown name."""
    chosen = list(known if laws is None else laws)
    for name in chosen:
        if name not in known:
            raise ValueError(f"there is no law {name!r}; the laws are {', '.join(known)}")
    return chosen
