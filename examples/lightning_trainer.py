"""Train a small net with Lightning's Trainer: two lines are gradwire's, and its memories lie beside every checkpoint.

torchrun --nproc-per-node 2 examples/lightning_trainer.py
For local steps, use `strategy = LocalStrategy(partial(gradwire.local, every=10))`. Trainer then ends a round before
every validation and save, and at the end.
"""

import os
import tempfile

import torch
from lightning import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradwire.integrations.lightning import AttachStrategy  # gradwire


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        if number % 25 == 24 and self.global_rank == 0:
            # Not log(sync_dist=True), which would communicate at every step.
            print(f"step {self.global_step + 1}: loss {loss.item():.3f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    seed_everything(0)
    model = Net()
    inputs, teacher = torch.randn(6400, 64), torch.randn(64, 10)
    loader = DataLoader(TensorDataset(inputs, (inputs @ teacher).argmax(1)), batch_size=32, shuffle=True)
    strategy = AttachStrategy("ef(deft(density=0.01))")  # gradwire: instead of "ddp"
    trainer = Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", 1)),
        strategy=strategy,
        max_epochs=2,
        gradient_clip_val=1.0,
        default_root_dir=tempfile.mkdtemp(),
        logger=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, loader)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    sent, dense = strategy.hook.ledger.bytes, 4 * len(flat) * strategy.hook.step  # gradwire
    rank = trainer.global_rank
    print(f"rank {rank}: sent {sent:,} bytes, dense {dense:,}; checksum {flat.double().sum().item()!r}")


if __name__ == "__main__":
    main()
