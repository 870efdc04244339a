"""Asks: the collectives that an algorithm may await. The transport that runs the coroutine answers them.

All workers must ask for the same collective at the same time: the same kind, shape, dtype, op and root. An ask defines
everything about its collective: the bytes it sends and the traffic they make, its shape check, its answer when all
workers live in one process, and how it is joined with others to one message. So no transport tests an ask's kind,
except the one that calls torch's collectives.

`Among(AllReduce(x), Axis(8))` sums the x of every eight neighbours: all workers ask at once, and every group of eight
gets its own answer.
"""

from gradwire.ask.among import Among, Ask, Axis, among
from gradwire.ask.collective import Collective, describe
from gradwire.ask.flags import OUT_OF_STEP, any_flag_in_sum, tag_offset
from gradwire.ask.plain import AllGather, AllReduce, AllToAll, Broadcast, Op, Plain
from gradwire.ask.together import Talk, together

ASKS = (AllReduce, AllGather, Broadcast, AllToAll)
"""Every kind of collective."""

__all__ = [
    "ASKS",
    "OUT_OF_STEP",
    "AllGather",
    "AllReduce",
    "AllToAll",
    "Among",
    "Ask",
    "Axis",
    "Broadcast",
    "Collective",
    "Op",
    "Plain",
    "Talk",
    "among",
    "any_flag_in_sum",
    "describe",
    "tag_offset",
    "together",
]
