"""A small GPT over bytes: pre-norm transformer blocks with causal attention (Radford et al. 2019)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

BYTES = 256


class TransformerBlock(nn.Module):
    """Attention and a feed-forward layer of four times the width, each with a pre-norm and a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """f[batch, context, width] -> the same shape."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Predict the next byte; the embedding is tied to the output."""

    def __init__(self, width: int = 256, depth: int = 4, heads: int = 4, context: int = 128) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(BYTES, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.apply(_initialise)
        for name, weight in self.named_parameters():
            # These layers add to the residual stream, so their scale falls with depth.
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * depth) ** 0.5)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """int64[batch, context] twice -> mean cross-entropy in nats per byte, f[]."""
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        logits = F.linear(self.norm(self.blocks(x)), self.token.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
