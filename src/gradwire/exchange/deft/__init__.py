"""DEFT: each worker searches its own part of the model (Yoon and Oh, ICPP 2023, arXiv:2307.03500).

`plan` holds the arithmetic that all workers repeat or share: cut the model into layers, give every layer its share of k
by its norm, pack the layers into bins of equal work. `exchange` is the conversation, `agreement` its part about the
plan, `indices` translates what is selected.
"""

from gradwire.exchange.deft.exchange import DEFT
from gradwire.exchange.deft.plan import Plan, apportion_k, assign_k, pack, partition

__all__ = ["DEFT", "Plan", "apportion_k", "assign_k", "pack", "partition"]
