"""States in `torch.distributed.checkpoint`, which stores one value per key: ranks' memories are rows of DTensors."""

from gradwire.dcp.stateful import Stateful

__all__ = ["Stateful"]
