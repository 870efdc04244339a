"""The engine: it averages named tensors over a process group through any exchange. It depends on no torch wrapper."""

from gradwire.engine.engine import Engine, Reduce, Scaler
from gradwire.engine.units import Unit, make_units

__all__ = ["Engine", "Reduce", "Scaler", "Unit", "make_units"]
