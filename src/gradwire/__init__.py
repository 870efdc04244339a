"""gradwire compresses the communication of distributed training.

import gradwire as gw
hook = gw.attach(ddp_model, "ef(deft(density=0.01))")       # one line in a training script
sim = gw.Simulator("diana(randk(density=0.1))", layout, 10)  # the same methods, simulated in one process

Compressors, exchanges and memories are in `gradwire.compress`, `gradwire.exchange` and `gradwire.memory`.

The import itself is cheap: the first use of a public name imports torch and all public names (`gradwire.public`).
"""

import gc
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from gradwire import version

__version__ = version.VERSION

if TYPE_CHECKING:
    from gradwire.public import *  # noqa: F403 - what type checkers and the API reference read
else:

    def __getattr__(name: str) -> object:
        """Import a submodule, or all public names at once, so that the registry is complete."""
        if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")
        if name == "__all__" or not name.startswith("_"):
            public = _public()
            globals().update({each: getattr(public, each) for each in ("__all__", *public.__all__)})
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_public().__all__})

    def _public() -> ModuleType:
        """Import `gradwire.public`, without garbage collections, which would traverse all of torch's objects."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            return import_module(f"{__name__}.public")
        finally:
            if collecting:
                gc.enable()
