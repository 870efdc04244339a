"""Recommendation: rank the film that a user rated last among others, by neural matrix factorisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradwire.lab.checks import check_name
from gradwire.lab.models.neumf import NeuMF
from gradwire.lab.training.tasks.protocol import Settings, own_part, part, rng, steps_in
from gradwire.lab.training.tasks.ratings import Ratings, load

NEGATIVES = 4
"""Negative items for every positive pair, drawn at every step from items that the user has not rated in training."""

SHAPES: Mapping[str, tuple[int, tuple[int, ...]]] = MappingProxyType(
    {"neumf": (16, (64, 32, 16)), "neumf64": (64, (256, 256, 128, 64))}
)


@dataclass(frozen=True)
class Recommendation:
    """MovieLens-100K by NeuMF.

    data: a file of ratings to use instead, in the format of `ratings.load`. unlike: every worker has its own users.
    """

    data: Path | None = None
    unlike: bool = False
    name = "recommendation"
    metric = "HR@10"
    higher_is_better = True
    models = tuple(SHAPES)
    defaults = Settings("neumf", batch=256, lr=0.01, steps=800, evaluate_every=100, optimizer="adam")

    @property
    def ratings(self) -> Ratings:
        """The ratings, read once in a process."""
        return load(self.data)

    @property
    def source(self) -> str:
        """What the ratings are, and where they were found."""
        return self.ratings.source

    def adamw(self, model: str | None) -> Settings:
        """The settings under AdamW or Muon; the same for all models."""
        return self.defaults.under_adamw(lr=1e-2, warmup_steps=20)

    def model(self, name: str | None, seed: int) -> nn.Module:
        """Make neumf (16 factors, layers of 64, 32, 16) or neumf64, the DEFT paper's model without dropout."""
        name = name or self.defaults.model
        check_name("model of recommendation", name, SHAPES)
        users, items = self.ratings.seen.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return NeuMF(users, items, *SHAPES[name])

    def loss(self, model: nn.Module, worker: int, workers: int, step: int, batch: int, seed: int) -> Tensor:
        """Binary cross-entropy f[] on `batch` positive pairs of a shuffled epoch, with four negative pairs for each."""
        if self.unlike:
            chosen = own_part(self.ratings.users, worker, workers, step, batch, seed)
        else:
            chosen = part(len(self.ratings.users), worker, workers, step, batch, seed)
        users, liked = self.ratings.users[chosen], self.ratings.items[chosen]
        asked = users.repeat(NEGATIVES)
        others = _unseen(self.ratings.seen, asked, rng("negatives", seed, step, worker))
        odds = model(torch.cat([users, asked]), torch.cat([liked, others]))
        wanted = torch.zeros_like(odds)
        wanted[:batch] = 1.0
        return F.binary_cross_entropy_with_logits(odds, wanted)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """HR@10, how often the held-out item is in the top ten of a hundred, and NDCG@10, which weights its rank.

        Ties count against the held-out item, so a model with constant scores gets 0.
        """
        model.eval()
        candidates = self.ratings.candidates
        users = torch.arange(len(candidates))[:, None].expand_as(candidates)
        odds = model(users.flatten(), candidates.flatten()).view_as(candidates)
        model.train()
        place = (odds[:, 1:] >= odds[:, :1]).sum(1).double()
        found = place < 10
        gain = torch.where(found, 1 / torch.log2(place + 2), 0.0)
        return {"HR@10": found.double().mean().item(), "NDCG@10": gain.mean().item()}

    def steps_per_epoch(self, workers: int, batch: int) -> int:
        """Whole steps in the positive pairs; an epoch drops the remainder."""
        return steps_in(len(self.ratings.users), "ratings", workers, batch)


def _unseen(seen: Tensor, users: Tensor, draw: torch.Generator) -> Tensor:
    """Draw an item for every user, int64[...], by rejection from those that the user has not seen."""
    items = torch.randint(seen.shape[1], users.shape, generator=draw)
    while bool((again := seen[users, items]).any()):
        items[again] = torch.randint(seen.shape[1], (int(again.sum()),), generator=draw)
    return items
