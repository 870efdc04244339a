"""Ok-Topk: a sparse all-reduce whose volume does not grow with the workers (Li and Hoefler, PPoPP 2022).

`regions` holds what the workers agree on: regions and thresholds. `pieces` is the message, `exchange` the algorithm.
"""

from gradwire.exchange.oktopk.exchange import OkTopk
from gradwire.exchange.oktopk.regions import Regions

__all__ = ["OkTopk", "Regions"]
