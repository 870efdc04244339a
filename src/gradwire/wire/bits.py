"""Integers of a few bits each, packed without gaps.

Wire: value i occupies bits [i * width, (i + 1) * width) of the stream, least significant bit first; bit j of the stream
is bit j % 8 of byte j // 8. The last byte is padded with zeros.
"""

from gradwire.kernels.packing import nbytes, pack, pack_flags, unpack, unpack_flags

__all__ = ["nbytes", "pack", "pack_flags", "unpack", "unpack_flags"]
