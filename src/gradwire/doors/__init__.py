"""Doors: how the tensors of a model reach the engine. One door's code knows nothing of another's."""

from gradwire.doors.attach import attach
from gradwire.doors.attach_local import local
from gradwire.doors.hook import Hook
from gradwire.doors.local import Local

__all__ = ["Hook", "Local", "attach", "local"]
