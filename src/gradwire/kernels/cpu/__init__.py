"""Numba's loops for the host's memory. Importing this package compiles them, or loads them from Numba's cache."""

from gradwire.kernels.cpu.collecting import among, move, sample, threshold
from gradwire.kernels.cpu.compiler import INFINITE
from gradwire.kernels.cpu.indices import decode, encode
from gradwire.kernels.cpu.packing import look_up, pack, pack_flags, unpack, unpack_flags
from gradwire.kernels.cpu.rounding import (
    classes,
    levels,
    natural,
    powers,
    round_half,
    signed,
    signs,
    uniforms,
    wide_uniforms,
)
from gradwire.kernels.cpu.selection import SAMPLED, buffer_size, segmented_topk, support
from gradwire.kernels.cpu.sums import copy, indices_above, norms, scatter

__all__ = [
    "INFINITE",
    "SAMPLED",
    "among",
    "buffer_size",
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
    "powers",
    "round_half",
    "sample",
    "scatter",
    "segmented_topk",
    "signed",
    "signs",
    "support",
    "threshold",
    "uniforms",
    "unpack",
    "unpack_flags",
    "wide_uniforms",
]
