"""The engine: named tensors over a process group -> units -> any exchange -> means. It knows no wrapper of torch's."""

from gradwire.engine.engine import Engine, Reduce, Scaler
from gradwire.engine.units import Unit, make_units

__all__ = ["Engine", "Reduce", "Scaler", "Unit", "make_units"]
