"""Neural matrix factorisation (He et al. 2017, arXiv:1708.05031): predict whether a user likes an item."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class NeuMF(nn.Module):
    """A product of embeddings, and an MLP over a second pair of embeddings; one linear layer joins the two.

    The product's embeddings have `factors` units. The MLP has `layers` units, and its embeddings layers[0] / 2 each.
    """

    def __init__(self, users: int, items: int, factors: int = 16, layers: tuple[int, ...] = (64, 32, 16)) -> None:
        super().__init__()
        half = layers[0] // 2
        self.product_users, self.product_items = nn.Embedding(users, factors), nn.Embedding(items, factors)
        self.users, self.items = nn.Embedding(users, half), nn.Embedding(items, half)
        steps: list[nn.Module] = []
        for wide, narrow in pairwise(layers):
            steps += [nn.Linear(wide, narrow), nn.ReLU()]
        self.pyramid, self.join = nn.Sequential(*steps), nn.Linear(factors + layers[-1], 1)
        self.apply(_initialise)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """int64[batch] twice -> log-odds f[batch]."""
        product = self.product_users(users) * self.product_items(items)
        deep = self.pyramid(torch.cat([self.users(users), self.items(items)], -1))
        return self.join(torch.cat([product, deep], -1)).squeeze(-1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.05)
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
