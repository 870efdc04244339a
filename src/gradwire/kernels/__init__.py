"""The few loops that touch every element. `reference` defines each one; a faster twin must give the same result."""

from gradwire.kernels.candidates import top
from gradwire.kernels.coins import coins
from gradwire.kernels.compiled import LONG, warm_up
from gradwire.kernels.copies import copy_, spread_
from gradwire.kernels.norms import norms
from gradwire.kernels.places import passing, scatter_add_
from gradwire.kernels.reference import finite
from gradwire.kernels.seen import Seen, join
from gradwire.kernels.segments import tops
from gradwire.kernels.support import support

__all__ = [
    "LONG",
    "Seen",
    "coins",
    "copy_",
    "finite",
    "join",
    "norms",
    "passing",
    "scatter_add_",
    "spread_",
    "support",
    "top",
    "tops",
    "warm_up",
]
