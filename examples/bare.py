"""Train a module without any wrapper; gradwire averages its gradients. Its lines are marked "gradwire".

torchrun --nproc-per-node 2 examples/bare.py
"""

import torch
import torch.distributed as dist
from torch import nn

import gradwire  # gradwire


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    hook = gradwire.attach(model, "ef(topk(density=0.01))")  # gradwire
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    teacher = torch.randn(64, 10)
    data = torch.Generator().manual_seed(dist.get_rank())

    for step in range(60):
        for micro in range(2):
            inputs = torch.randn(32, 64, generator=data)
            loss = nn.functional.cross_entropy(model(inputs), (inputs @ teacher).argmax(1)) / 2
            if micro == 0:
                with hook.no_sync():  # gradwire
                    loss.backward()
            else:
                loss.backward()  # exchanges the sum of both
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # clips the mean over all ranks
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 19 and dist.get_rank() == 0:
            print(f"step {step + 1}: loss {2 * loss.item():.3f}")

    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    sent, dense = hook.ledger.bytes, 4 * len(flat) * hook.step  # gradwire
    print(f"rank {dist.get_rank()}: sent {sent:,} bytes, dense {dense:,}; checksum {flat.double().sum().item()!r}")
    hook.close()  # gradwire
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
