"""Packed payloads: bits, sorted indices, values. A format is a promise: old bytes decode for ever."""
