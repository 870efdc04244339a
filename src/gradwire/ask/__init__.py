"""What a worker may ask of its peers. `await` is the network; the transport that runs the coroutine answers.

All workers must ask for the same thing at the same time: the same kind, shape, dtype, op and root. An ask knows what
there is to know about it: the bytes it brings and makes, its shape check, its answer where all workers live in one
process, and how it becomes one message with others. So a transport never asks what kind it has, except the one that
calls a network's collectives.

Workers may ask among some of them: `Among(AllReduce(x), Axis(8))` adds up the x of every eight neighbours. All workers
ask so at the same time, each in its own group.
"""

from gradwire.ask.among import Among, Ask, Axis, among
from gradwire.ask.collective import Collective, describe
from gradwire.ask.flags import APART, marked, unmarked
from gradwire.ask.plain import AllGather, AllReduce, AllToAll, Broadcast, Op, Plain
from gradwire.ask.together import Talk, together

ASKS = (AllReduce, AllGather, Broadcast, AllToAll)
"""Every kind of collective."""

__all__ = [
    "APART",
    "ASKS",
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
    "describe",
    "marked",
    "together",
    "unmarked",
]
