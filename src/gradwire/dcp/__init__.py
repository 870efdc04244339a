"""States in `torch.distributed.checkpoint`, which keeps one value a key: every rank's memory is a row of a DTensor."""

from gradwire.dcp.stateful import Stateful

__all__ = ["Stateful"]
