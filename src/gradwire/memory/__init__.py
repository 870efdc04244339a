"""Memories: wrappers around an exchange that keep what was not sent (EF) or what was sent (Shifted, Difference).

Every module here registers its parts, which become attributes of this package: `gradwire.memory.EF`. To a type checker
they are Any; import a part from the module that defines it to get its type.
"""

from typing import TYPE_CHECKING, Any

from gradwire import registry
from gradwire.memory.shift import Rule as Rule
from gradwire.memory.shift import start_ as start_

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(registry.discover(__name__, __path__))
