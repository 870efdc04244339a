"""Islands: one exchange inside groups of neighbours, another one between the groups."""

from gradwire.exchange.islands.exchange import Islands

__all__ = ["Islands"]
