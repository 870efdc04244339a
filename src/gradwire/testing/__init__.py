"""The laws as functions: `check_compressor(op)` and `check_exchange(exchange)`, for any part, yours too.

Both return in silence, or raise `BrokenLaw`, an AssertionError whose message names the law, the part, where it broke
(dimension, workers, seed) and the numbers. They need neither pytest nor hypothesis: call them in any test.

    from gradwire.testing import check_compressor, check_exchange
    check_compressor(MyOperator(density=0.1))
    check_exchange(MyExchange())

`COMPRESSOR_LAWS` and `EXCHANGE_LAWS` are the laws by name; `laws=["zeros stay zero"]` checks some of them.
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
