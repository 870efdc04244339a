"""Vision: classify pictures of 28 x 28 pixels into ten classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradwire.lab.checks import check_name
from gradwire.lab.models.resnet import resnet8, resnet18
from gradwire.lab.training.tasks.images import Images, load
from gradwire.lab.training.tasks.protocol import Settings, own_part, part, steps_in

MODELS = {"resnet8": resnet8, "resnet18": resnet18}


@dataclass(frozen=True)
class Vision:
    """Residual networks on the pictures that `images.load` finds.

    data: a folder of IDX files to read instead. unlike: every worker has the pictures of its own labels.
    """

    data: Path | None = None
    unlike: bool = False
    name = "vision"
    metric = "accuracy"
    higher_is_better = True
    models = tuple(MODELS)
    defaults = Settings("resnet8", batch=16, lr=0.05, steps=400, evaluate_every=50, momentum=0.9, decay=(0.75,))

    @property
    def images(self) -> Images:
        """The pictures, read once in a process."""
        return load(self.data)

    @property
    def source(self) -> str:
        """What the pictures are, and where they were found."""
        return self.images.source

    def adamw(self, model: str | None) -> Settings:
        """The settings under AdamW or Muon; the same for all models."""
        return self.defaults.under_adamw(lr=1e-2, warmup_steps=20)

    def model(self, name: str | None, seed: int) -> nn.Module:
        """Make resnet8 or resnet18 for one channel."""
        name = name or self.defaults.model
        check_name("model of vision", name, MODELS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MODELS[name](1)

    def loss(self, model: nn.Module, worker: int, workers: int, step: int, batch: int, seed: int) -> Tensor:
        """The cross-entropy f[] on the worker's batch of a shuffled epoch."""
        labels = self.images.labels
        if self.unlike:
            chosen = own_part(labels, worker, workers, step, batch, seed)
        else:
            chosen = part(len(labels), worker, workers, step, batch, seed)
        return F.cross_entropy(model(_scaled(self.images.images[chosen])), labels[chosen])

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy and loss on the held-out pictures."""
        model.eval()
        pictures: Sequence[Tensor] = torch.split(self.images.held_out_images, 250)
        parts = [model(_scaled(images)) for images in pictures]
        model.train()
        logits, labels = torch.cat(parts), self.images.held_out_labels
        right = (logits.argmax(1) == labels).double().mean().item()
        return {"accuracy": right, "loss": F.cross_entropy(logits.double(), labels).item()}

    def steps_per_epoch(self, workers: int, batch: int) -> int:
        """Whole steps in the training pictures; an epoch drops the remainder."""
        return steps_in(len(self.images.labels), "pictures", workers, batch)


def _scaled(images: Tensor) -> Tensor:
    """u8[...] -> float32[...] with about zero mean and unit variance."""
    return images.float().div_(255).sub_(0.2860).div_(0.3530)  # mean and standard deviation of Fashion-MNIST's pixels
