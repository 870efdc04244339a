"""Memories: wrappers around an exchange that remember what was not said (EF) or what was (Shifted, Difference)."""

from gradwire.memory.dgc import DGC
from gradwire.memory.difference import DASHA, MARINA, Difference
from gradwire.memory.ef import EF
from gradwire.memory.guard import Guard
from gradwire.memory.iterates import GDCI, VRGDCI, Iterates
from gradwire.memory.momentum import EF21SGDM, Momentum
from gradwire.memory.shift import DIANA, EF21, EFBV, Fixed, Follow, RandDIANA, Restart, Rule, Shifted, start_
from gradwire.memory.warmup import Warmup

__all__ = [
    "DASHA",
    "DGC",
    "DIANA",
    "EF",
    "EF21",
    "EF21SGDM",
    "EFBV",
    "GDCI",
    "MARINA",
    "VRGDCI",
    "Difference",
    "Fixed",
    "Follow",
    "Guard",
    "Iterates",
    "Momentum",
    "RandDIANA",
    "Restart",
    "Rule",
    "Shifted",
    "Warmup",
    "start_",
]
