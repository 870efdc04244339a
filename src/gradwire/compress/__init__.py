"""Compressors: local, pure, silent. Each says its constants and its length on the wire."""

from gradwire.compress.identity import Identity
from gradwire.compress.natural import Natural
from gradwire.compress.protocol import Compressor
from gradwire.compress.randk import RandK
from gradwire.compress.scaled import Scaled
from gradwire.compress.topk import TopK

__all__ = ["Compressor", "Identity", "Natural", "RandK", "Scaled", "TopK"]
