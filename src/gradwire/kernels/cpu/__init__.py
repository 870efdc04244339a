"""Numba's loops for the host's memory. Importing this compiles all of them, or loads them from the cache."""

from gradwire.kernels.cpu.compiler import INFINITE
from gradwire.kernels.cpu.indices import decode, encode
from gradwire.kernels.cpu.packing import look_up, pack, pack_flags, unpack, unpack_flags
from gradwire.kernels.cpu.rounding import classes, coins, levels, natural, powers, signed, signs, wide_coins
from gradwire.kernels.cpu.seen import among, move, poll, vote
from gradwire.kernels.cpu.selection import SAMPLED, room, support, tops
from gradwire.kernels.cpu.sums import copy, norms, passing, spread

__all__ = [
    "INFINITE",
    "SAMPLED",
    "among",
    "classes",
    "coins",
    "copy",
    "decode",
    "encode",
    "levels",
    "look_up",
    "move",
    "natural",
    "norms",
    "pack",
    "pack_flags",
    "passing",
    "poll",
    "powers",
    "room",
    "signed",
    "signs",
    "spread",
    "support",
    "tops",
    "unpack",
    "unpack_flags",
    "vote",
    "wide_coins",
]
