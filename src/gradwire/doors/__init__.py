"""Doors: how the tensors of a model reach the engine. One door's code knows nothing of another's."""

from gradwire.doors.attach import attach
from gradwire.doors.hook import Hook

__all__ = ["Hook", "attach"]
