"""Compressors: local, pure, silent. Each says its constants and its length on the wire.

Every module here registers its parts, and they are attributes of this package: `gradwire.compress.TopK`. A type checker
knows a part's type where it is imported from the module that defines it, and takes it for Any from here.
"""

from typing import TYPE_CHECKING, Any

from gradwire import registry
from gradwire.compress.protocol import Compressor as Compressor

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(registry.discover(__name__, __path__))
