"""Train a small net with local steps on several machines over a slow link; gradwire adds three lines.

torchrun --nproc-per-node 2 examples/local.py
torchrun --nnodes 2 --node-rank 0 --master-addr ADDRESS --master-port 29500 examples/local.py   # and --node-rank 1
"""

import torch
import torch.distributed as dist
from torch import nn

import gradwire  # gradwire


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    local = gradwire.local(model, optimizer, every=10)  # gradwire
    teacher = torch.randn(64, 10)
    data = torch.Generator().manual_seed(dist.get_rank())

    for step in range(200):
        inputs = torch.randn(32, 64, generator=data)
        loss = nn.functional.cross_entropy(model(inputs), (inputs @ teacher).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 40 == 39 and dist.get_rank() == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}")

    local.finish()  # gradwire
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    sent, dense = local.ledger.bytes, 4 * len(flat) * local.local_steps  # gradwire
    print(f"rank {dist.get_rank()}: sent {sent:,} bytes, dense {dense:,}; checksum {flat.double().sum().item()!r}")
    local.close()  # gradwire
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
