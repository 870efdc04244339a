"""Ok-Topk: a sparse all-reduce whose volume does not grow with the workers (Li and Hoefler, PPoPP 2022).

`plan` holds what all workers agree about: regions and thresholds. `pieces` is the message. `exchange` is the
conversation.
"""

from gradwire.exchange.oktopk.exchange import OkTopk
from gradwire.exchange.oktopk.plan import Plan

__all__ = ["OkTopk", "Plan"]
