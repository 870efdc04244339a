"""Memories: wrappers around an exchange that remember what was not said (EF) or what was (Shifted)."""

from gradwire.memory.ef import EF
from gradwire.memory.guard import Guard
from gradwire.memory.shift import DIANA, EF21, Fixed, Follow, RandDIANA, Restart, Rule, Shifted

__all__ = ["DIANA", "EF", "EF21", "Fixed", "Follow", "Guard", "RandDIANA", "Restart", "Rule", "Shifted"]
