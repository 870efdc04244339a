"""Train a small net with Lightning's Fabric: two lines are gradwire's, and its memories lie beside every checkpoint.

torchrun --nproc-per-node 2 examples/fabric.py
For local steps, use `strategy = FabricLocalStrategy(partial(gradwire.local, every=10))` and call
`strategy.locals[0].finish()` before an evaluation and at the end.
"""

import os
import tempfile

import torch
from lightning.fabric import Fabric, seed_everything
from torch import nn

from gradwire.integrations.lightning import FabricAttachStrategy  # gradwire


def main() -> None:
    strategy = FabricAttachStrategy("ef(deft(density=0.01))")  # gradwire: instead of "ddp"
    fabric = Fabric(accelerator="cpu", devices=int(os.environ.get("WORLD_SIZE", 1)), strategy=strategy)
    fabric.launch()
    seed_everything(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    teacher = torch.randn(64, 10)
    data = torch.Generator().manual_seed(fabric.global_rank)

    for step in range(100):
        for micro in range(2):
            inputs = torch.randn(32, 64, generator=data)
            with fabric.no_backward_sync(model, enabled=micro == 0):
                loss = nn.functional.cross_entropy(model(inputs), (inputs @ teacher).argmax(1))
                fabric.backward(loss / 2)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)  # clips the mean over all ranks
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 19:
            fabric.print(f"step {step + 1}: loss {loss.item():.3f}")

    path = fabric.broadcast(os.path.join(tempfile.mkdtemp(), "last.ckpt"))
    state = {"model": model, "optimizer": optimizer}
    fabric.save(path, state)
    fabric.load(path, state)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    sent, dense = strategy.hooks[0].ledger.bytes, 4 * len(flat) * strategy.hooks[0].step  # gradwire
    rank = fabric.global_rank
    print(f"rank {rank}: sent {sent:,} bytes, dense {dense:,}; checksum {flat.double().sum().item()!r}")


if __name__ == "__main__":
    main()
