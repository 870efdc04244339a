"""Train a model that FSDP2 shards inside two islands; gradwire averages between them. Its lines are marked "gradwire".

torchrun --nproc-per-node 4 examples/fsdp2.py
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import gradwire  # gradwire

ISLANDS = 2  # machines or sites, with slow links between them


def main() -> None:
    dist.init_process_group("gloo")
    shards = dist.get_world_size() // ISLANDS
    mesh = init_device_mesh("cpu", (ISLANDS, shards), mesh_dim_names=("replicate", "shard"))
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(512, 512), nn.ReLU()) for _ in range(3)]
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), *blocks, nn.Linear(512, 10))
    for block in blocks:
        fully_shard(block, mesh=mesh["shard"])  # native HSDP would take the whole mesh
    fully_shard(model, mesh=mesh["shard"])
    hook = gradwire.attach(model, "ef(topk(density=0.01))", group=mesh["replicate"])  # gradwire
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    teacher = torch.randn(64, 10)
    data = torch.Generator().manual_seed(dist.get_rank())

    for step in range(60):
        inputs = torch.randn(32, 64, generator=data)
        loss = nn.functional.cross_entropy(model(inputs), (inputs @ teacher).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # clips the mean over all islands
        optimizer.step()
        if step % 20 == 19 and dist.get_rank() == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}")

    part, parts = hook.part  # gradwire
    flat = torch.cat([parameter.detach().to_local().flatten() for parameter in model.parameters()])
    sent, dense = hook.ledger.bytes, 4 * len(flat) * hook.step  # gradwire
    print(
        f"rank {dist.get_rank()}, shard {part} of {parts}: sent {sent:,} bytes, dense {dense:,}; "
        f"checksum {flat.double().sum().item()!r}"
    )
    hook.close()  # gradwire
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
