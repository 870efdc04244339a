"""How gradients are averaged, by name: torch's own ways beside every spec of gradwire."""

from gradwire.lab.ways.names import AUTO, AUTO_DENSE, DENSE, NONE, TORCH, check_way, is_torch, powersgd_rank

__all__ = ["AUTO", "AUTO_DENSE", "DENSE", "NONE", "TORCH", "check_way", "is_torch", "powersgd_rank"]
