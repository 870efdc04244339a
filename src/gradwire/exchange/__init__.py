"""Exchanges: collective algorithms. The law: all workers get the same mean, the average of what each of them sent.

Every module here registers its parts, which become attributes of this package: `gradwire.exchange.DEFT`. To a type
checker they are Any; import a part from the module that defines it to get its type.
"""

from typing import TYPE_CHECKING, Any

from gradwire import registry
from gradwire.exchange.protocol import Accumulates as Accumulates
from gradwire.exchange.protocol import Exchange as Exchange
from gradwire.exchange.protocol import Layered as Layered
from gradwire.exchange.protocol import Selective as Selective
from gradwire.exchange.protocol import State as State
from gradwire.exchange.protocol import divide_budget as divide_budget
from gradwire.exchange.protocol import tensor as tensor

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(registry.discover(__name__, __path__))
