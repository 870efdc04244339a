"""DEFT: each worker searches its own part of the model (Yoon and Oh, ICPP 2023, arXiv:2307.03500).

`plan` is the arithmetic: cut the model into layers, divide k among the layers by their norms, pack the layers into bins
of equal work. `exchange` is the algorithm, `agreement` its part about the plan, `indices` translates the selection.
"""

from gradwire.exchange.deft.exchange import DEFT
from gradwire.exchange.deft.plan import Packing, apportion_k, assign_k, pack, partition

__all__ = ["DEFT", "Packing", "apportion_k", "assign_k", "pack", "partition"]
