"""Numba's loops for the host's memory. Importing this compiles all of them, or loads them from the cache."""

from gradwire.kernels.cpu.compiler import INFINITE
from gradwire.kernels.cpu.indices import decode, encode
from gradwire.kernels.cpu.packing import look_up, pack, pack_flags, unpack, unpack_flags
from gradwire.kernels.cpu.rounding import classes, levels, natural, powers, signed, signs, uniforms, wide_coins
from gradwire.kernels.cpu.seen import among, move, poll, vote
from gradwire.kernels.cpu.selection import SAMPLED, room, segmented_topk, support
from gradwire.kernels.cpu.sums import copy, indices_above, norms, scatter

__all__ = [
    "INFINITE",
    "SAMPLED",
    "among",
    "classes",
    "copy",
    "decode",
    "encode",
    "indices_above",
    "levels",
    "look_up",
    "move",
    "natural",
    "norms",
    "pack",
    "pack_flags",
    "poll",
    "powers",
    "room",
    "scatter",
    "segmented_topk",
    "signed",
    "signs",
    "support",
    "uniforms",
    "unpack",
    "unpack_flags",
    "vote",
    "wide_coins",
]
