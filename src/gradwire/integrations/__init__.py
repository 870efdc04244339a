"""gradwire inside trainers: one module a framework. `import gradwire` imports none of them, and they import no other's.

from gradwire.integrations.accelerate import attach, prepare_local
from gradwire.integrations.transformers import attach, local
from gradwire.integrations.lightning import AttachStrategy, LocalStrategy, FabricAttachStrategy, FabricLocalStrategy
"""
