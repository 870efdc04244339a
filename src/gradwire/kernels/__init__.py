"""The few loops that touch every element. `reference` defines each one; a faster twin must give the same result."""

from gradwire.kernels.candidates import top
from gradwire.kernels.reference import norms
from gradwire.kernels.support import support

__all__ = ["norms", "support", "top"]
