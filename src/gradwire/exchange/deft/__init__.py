"""DEFT: each worker searches its own part of the model (Yoon and Oh, ICPP 2023, arXiv:2307.03500).

`plan` divides the model into layers, k among the layers by their norms, and the layers into bins of equal work.
`exchange` is the algorithm, `agreement` distributes the plan, `norms` measures layers, and `indices` converts positions
in a bin to indices of the vector.
"""

from gradwire.exchange.deft.exchange import DEFT
from gradwire.exchange.deft.plan import Packing, apportion_k, assign_k, pack, partition

__all__ = ["DEFT", "Packing", "apportion_k", "assign_k", "pack", "partition"]
