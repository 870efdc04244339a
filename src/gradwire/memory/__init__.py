"""Memories: wrappers around an exchange that remember what was not sent (EF) or what was (Shifted, Difference).

Every module here registers its parts, and they are attributes of this package: `gradwire.memory.EF`. A type checker
knows a part's type where it is imported from the module that defines it, and takes it for Any from here.
"""

from typing import TYPE_CHECKING, Any

from gradwire import registry
from gradwire.memory.shift import Rule as Rule
from gradwire.memory.shift import start_ as start_

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(registry.discover(__name__, __path__))
