"""The few loops over every element of a vector. A `Kernel` (kernel.py) is a definition with faster twins."""

from gradwire.kernels.above import indices_above
from gradwire.kernels.accumulated import Accumulated, accumulate, values
from gradwire.kernels.compiled import loops, warm_up, warm_up_for
from gradwire.kernels.copies import copy_, scatter_, scatter_add_, zeros
from gradwire.kernels.half import round_
from gradwire.kernels.norms import norms, row_norms
from gradwire.kernels.reference import finite
from gradwire.kernels.support import support
from gradwire.kernels.topk import segmented_topk, topk
from gradwire.kernels.uniforms import uniforms

__all__ = [
    "Accumulated",
    "accumulate",
    "copy_",
    "finite",
    "indices_above",
    "loops",
    "norms",
    "round_",
    "row_norms",
    "scatter_",
    "scatter_add_",
    "segmented_topk",
    "support",
    "topk",
    "uniforms",
    "values",
    "warm_up",
    "warm_up_for",
    "zeros",
]
