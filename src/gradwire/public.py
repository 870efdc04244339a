"""All public names. `gradwire` exports them at the first use of one of them."""

from gradwire import compress, exchange, memory, outer
from gradwire.ask import AllGather, AllReduce, AllToAll, Among, Axis, Broadcast
from gradwire.auto import Auto, attach
from gradwire.checkpoint import merge
from gradwire.compress.protocol import Compressor
from gradwire.dcp import Stateful
from gradwire.doors import Hook, Local, local
from gradwire.exchange.protocol import Exchange, State
from gradwire.folder import load, save
from gradwire.layout import Layout, Turn
from gradwire.outer.every import Every
from gradwire.registry import part as register
from gradwire.simulator import Round, Simulator
from gradwire.spec import SpecError, parse
from gradwire.transport import Disagreement, Ledger, batched, lockstep
from gradwire.transport.members import Members
from gradwire.vector import Dense, Offset, Sent, Sparse

__all__ = [
    "AllGather",
    "AllReduce",
    "AllToAll",
    "Among",
    "Auto",
    "Axis",
    "Broadcast",
    "Compressor",
    "Dense",
    "Disagreement",
    "Every",
    "Exchange",
    "Hook",
    "Layout",
    "Ledger",
    "Local",
    "Members",
    "Offset",
    "Round",
    "Sent",
    "Simulator",
    "Sparse",
    "SpecError",
    "State",
    "Stateful",
    "Turn",
    "attach",
    "batched",
    "compress",
    "exchange",
    "load",
    "local",
    "lockstep",
    "memory",
    "merge",
    "outer",
    "parse",
    "register",
    "save",
]
