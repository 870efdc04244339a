"""Exchanges: collective algorithms. Each obeys the law: all workers get one mean, the average of what each one sent.

Every module here registers its parts, and they are attributes of this package: `gradwire.exchange.DEFT`. A type checker
knows a part's type where it is imported from the module that defines it, and takes it for Any from here.
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
