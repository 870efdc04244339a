"""gradwire inside trainers: one module per framework. `import gradwire` imports none of them.

from gradwire.integrations.accelerate import attach, prepare_local
from gradwire.integrations.transformers import attach, local
from gradwire.integrations.lightning import AttachStrategy, LocalStrategy, FabricAttachStrategy, FabricLocalStrategy
"""
