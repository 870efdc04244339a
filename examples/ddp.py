"""Train a small net with DDP on several processes or machines; gradwire adds four lines. Local steps: see local.py.

torchrun --nproc-per-node 2 examples/ddp.py
torchrun --nnodes 2 --node-rank 0 --master-addr ADDRESS --master-port 29500 examples/ddp.py   # and --node-rank 1
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire  # gradwire


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    ddp = DistributedDataParallel(model)
    hook = gradwire.attach(ddp, "ef(deft(density=0.01))")  # gradwire
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    teacher = torch.randn(64, 10)
    data = torch.Generator().manual_seed(dist.get_rank())

    for step in range(100):
        inputs = torch.randn(32, 64, generator=data)
        loss = nn.functional.cross_entropy(ddp(inputs), (inputs @ teacher).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19 and dist.get_rank() == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}")

    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    sent, dense = hook.ledger.bytes, 4 * len(flat) * hook.step  # gradwire
    print(f"rank {dist.get_rank()}: sent {sent:,} bytes, dense {dense:,}; checksum {flat.double().sum().item()!r}")
    hook.close()  # gradwire
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
