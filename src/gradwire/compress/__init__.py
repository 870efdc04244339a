"""Compressors: local and pure, without communication. Each knows its constants omega and delta and its bytes.

Every module here registers its parts, which become attributes of this package: `gradwire.compress.TopK`. To a type
checker they are Any; import a part from the module that defines it to get its type.
"""

from typing import TYPE_CHECKING, Any

from gradwire import registry
from gradwire.compress.protocol import Compressor as Compressor

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(registry.discover(__name__, __path__))
