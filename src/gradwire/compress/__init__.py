"""Compressors: local, pure, silent. Each says its constants and its length on the wire."""

from gradwire.compress.bernoulli import Bernoulli
from gradwire.compress.blockwise import Blockwise
from gradwire.compress.chain import Chain
from gradwire.compress.dithering import Dithering
from gradwire.compress.identity import Identity
from gradwire.compress.induced import Induced
from gradwire.compress.natural import Natural
from gradwire.compress.natural_dithering import NaturalDithering
from gradwire.compress.protocol import Compressor
from gradwire.compress.randk import RandK
from gradwire.compress.scaled import Scaled
from gradwire.compress.sign import ScaledSign
from gradwire.compress.ternary import Ternary
from gradwire.compress.threshold import HardThreshold
from gradwire.compress.topk import TopK

__all__ = [
    "Bernoulli",
    "Blockwise",
    "Chain",
    "Compressor",
    "Dithering",
    "HardThreshold",
    "Identity",
    "Induced",
    "Natural",
    "NaturalDithering",
    "RandK",
    "Scaled",
    "ScaledSign",
    "Ternary",
    "TopK",
]
