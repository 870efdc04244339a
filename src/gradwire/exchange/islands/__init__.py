"""Islands: one exchange inside groups of neighbouring ranks, and another one between the groups."""

from gradwire.exchange.islands.exchange import Islands

__all__ = ["Islands"]
