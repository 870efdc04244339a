"""Lightning: strategies for its Trainer and for Fabric, in the place of `strategy="ddp"`.

Trainer(strategy=AttachStrategy("ef(deft(density=0.01))"))
Fabric(strategy=FabricAttachStrategy("ef(deft(density=0.01))"))

They are subclasses, for a strategy is the only place where Lightning lets anything in between wrapping and saving.
Beside every checkpoint `x.ckpt` lies a folder `x.ckpt.gradwire` with every rank's memories.
"""

from gradwire.integrations.lightning.fabric import FabricAttachStrategy, FabricLocalStrategy
from gradwire.integrations.lightning.trainer import AttachStrategy, LocalStrategy

__all__ = ["AttachStrategy", "FabricAttachStrategy", "FabricLocalStrategy", "LocalStrategy"]
