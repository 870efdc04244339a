"""A recurrent language model over bytes: LSTM layers as wide as the embedding, which is tied to the output.

A small version of the DEFT paper's language model, which has three layers of 650 units over words. The tied weights
follow Press and Wolf 2017 (arXiv:1608.05859).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradwire.lab.models.gpt import BYTES


class LSTM(nn.Module):
    """Predict the next byte from the earlier bytes of the window."""

    def __init__(self, width: int = 96, depth: int = 2) -> None:
        super().__init__()
        self.token, self.bias = nn.Embedding(BYTES, width), nn.Parameter(torch.zeros(BYTES))
        self.layers = nn.LSTM(width, width, depth, batch_first=True)
        nn.init.uniform_(self.token.weight, -0.1, 0.1)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """int64[batch, context] twice -> mean cross-entropy in nats per byte, f[]."""
        hidden, _ = self.layers(self.token(tokens))
        logits = F.linear(hidden, self.token.weight, self.bias)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
