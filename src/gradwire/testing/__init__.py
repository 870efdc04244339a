"""Conformance checks: `check_compressor(op)` and `check_exchange(exchange)` test any part, also your own.

Both return None if every law holds, and otherwise raise `BrokenLaw`, an AssertionError whose message names the law, the
part, the case that failed (dimension, workers, seed) and the numbers. They need neither pytest nor hypothesis: call
them in any test.

    from gradwire.testing import check_compressor, check_exchange
    check_compressor(MyOperator(density=0.1))
    check_exchange(MyExchange())

`COMPRESSOR_LAWS` and `EXCHANGE_LAWS` map names to laws; `laws=["zeros stay zero"]` checks only the named ones.
"""

from gradwire.exchange.law import BrokenLaw
from gradwire.testing.check import COMPRESSOR_LAWS, EXCHANGE_LAWS, check_compressor, check_exchange
from gradwire.testing.trial import LAYOUT

__all__ = [
    "COMPRESSOR_LAWS",
    "EXCHANGE_LAWS",
    "LAYOUT",
    "BrokenLaw",
    "check_compressor",
    "check_exchange",
]
