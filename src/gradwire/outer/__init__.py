"""Outer steps: they move the anchor by the mean of the workers' differences after a round of local steps.

Every module here registers its parts, which become attributes of this package: `gradwire.outer.SGD`.
"""

from typing import TYPE_CHECKING, Any

from gradwire import registry
from gradwire.outer.protocol import Outer as Outer

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(registry.discover(__name__, __path__))
