"""gradwire takes the bytes out of distributed training.

import gradwire as gw
hook = gw.attach(ddp_model, "ef(deft(density=0.01))")       # one line in a training script
sim = gw.Simulator("diana(randk(density=0.1))", layout, 10)  # the same methods in a laboratory
"""

from gradwire.ask import Gather, Share, Sum
from gradwire.checkpoint import merge
from gradwire.compress import (
    Bernoulli,
    Blockwise,
    Chain,
    Compressor,
    Dithering,
    HardThreshold,
    Identity,
    Induced,
    Natural,
    NaturalDithering,
    RandK,
    Scaled,
    ScaledSign,
    Ternary,
    TopK,
)
from gradwire.ddp import Hook, attach
from gradwire.exchange import Deft, Exchange, Gathered, Mean, PermK, PowerSGD, SharedRandK
from gradwire.layout import Layout, Turn
from gradwire.memory import (
    DASHA,
    DIANA,
    EF,
    EF21,
    EF21SGDM,
    EFBV,
    GDCI,
    MARINA,
    VRGDCI,
    Difference,
    Fixed,
    Follow,
    Guard,
    Iterates,
    Momentum,
    RandDIANA,
    Restart,
    Shifted,
)
from gradwire.simulator import Round, Simulator
from gradwire.spec import SpecError, parse
from gradwire.transport import Disagreement, Ledger, batched, lockstep
from gradwire.vector import Dense, Offset, Sent, Sparse

__all__ = [
    "DASHA",
    "DIANA",
    "EF",
    "EF21",
    "EF21SGDM",
    "EFBV",
    "GDCI",
    "MARINA",
    "VRGDCI",
    "Bernoulli",
    "Blockwise",
    "Chain",
    "Compressor",
    "Deft",
    "Dense",
    "Difference",
    "Disagreement",
    "Dithering",
    "Exchange",
    "Fixed",
    "Follow",
    "Gather",
    "Gathered",
    "Guard",
    "HardThreshold",
    "Hook",
    "Identity",
    "Induced",
    "Iterates",
    "Layout",
    "Ledger",
    "Mean",
    "Momentum",
    "Natural",
    "NaturalDithering",
    "Offset",
    "PermK",
    "PowerSGD",
    "RandDIANA",
    "RandK",
    "Restart",
    "Round",
    "Scaled",
    "ScaledSign",
    "Sent",
    "Share",
    "SharedRandK",
    "Shifted",
    "Simulator",
    "Sparse",
    "SpecError",
    "Sum",
    "Ternary",
    "TopK",
    "Turn",
    "attach",
    "batched",
    "lockstep",
    "merge",
    "parse",
]
