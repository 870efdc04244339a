"""Ok-Topk: a sparse all-reduce whose volume does not grow with the workers (Li and Hoefler, PPoPP 2022).

`exchange` is the algorithm, `regions` the common regions and thresholds, `threshold` selects by them, `survivors`
gathers the kept sums, and `pieces` is the message format.
"""

from gradwire.exchange.oktopk.exchange import OkTopk
from gradwire.exchange.oktopk.regions import Regions

__all__ = ["OkTopk", "Regions"]
