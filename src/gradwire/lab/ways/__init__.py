"""Methods of keeping workers' models together, by name: torch's own, every gradwire spec, and local steps."""

from gradwire.lab.ways.local_steps import LocalWay, local_steps
from gradwire.lab.ways.names import AUTO, AUTO_DENSE, DENSE, NONE, TORCH, check_way, is_torch, powersgd_rank

__all__ = [
    "AUTO",
    "AUTO_DENSE",
    "DENSE",
    "NONE",
    "TORCH",
    "LocalWay",
    "check_way",
    "is_torch",
    "local_steps",
    "powersgd_rank",
]
