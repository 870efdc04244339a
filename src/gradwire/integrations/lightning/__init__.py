"""Lightning: strategies for its Trainer and for Fabric, in place of `strategy="ddp"`.

Trainer(strategy=AttachStrategy("ef(deft(density=0.01))"))
Fabric(strategy=FabricAttachStrategy("ef(deft(density=0.01))"))

They are subclasses of Lightning's own, because only a strategy can act both when a model is wrapped and when it is
saved. Every checkpoint `x.ckpt` has a folder `x.ckpt.gradwire` beside it, with every rank's memories.
"""

from gradwire.integrations.lightning.fabric import FabricAttachStrategy, FabricLocalStrategy
from gradwire.integrations.lightning.trainer import AttachStrategy, LocalStrategy

__all__ = ["AttachStrategy", "FabricAttachStrategy", "FabricLocalStrategy", "LocalStrategy"]
