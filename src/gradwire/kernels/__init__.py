"""The few loops that touch every element. `reference` defines each one; a faster twin must give the same result."""

from gradwire.kernels.accumulated import Accumulated, accumulate, values
from gradwire.kernels.candidates import topk
from gradwire.kernels.compiled import LONG, warm_up, warm_up_for
from gradwire.kernels.copies import copy_, scatter_
from gradwire.kernels.norms import norms
from gradwire.kernels.places import indices_above, scatter_add_
from gradwire.kernels.reference import finite
from gradwire.kernels.segments import segmented_topk
from gradwire.kernels.support import support
from gradwire.kernels.uniforms import uniforms

__all__ = [
    "LONG",
    "Accumulated",
    "accumulate",
    "copy_",
    "finite",
    "indices_above",
    "norms",
    "scatter_",
    "scatter_add_",
    "segmented_topk",
    "support",
    "topk",
    "uniforms",
    "values",
    "warm_up",
    "warm_up_for",
]
