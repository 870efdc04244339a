"""Train under torchrun, which starts all workers again when one dies; the marked lines are gradwire's.

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1      # else torch 2.13 gives restarted workers the addresses of dead ones
torchrun --nproc-per-node 2 --max-restarts 3 examples/elastic.py FOLDER        # a folder that all workers share
"""

import hashlib
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire

STEPS, EVERY = 60, 10


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    torch.manual_seed(0)
    rank, model = dist.get_rank(), nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    hook = gradwire.attach(ddp, "ef(topk(density=0.01))")  # gradwire
    teacher, start, latest = torch.randn(64, 10), 0, folder / "latest"

    if latest.exists():
        place = folder / latest.read_text()
        saved = torch.load(place / "model.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        gradwire.load(hook, place)  # gradwire: also with another number of workers
        start = saved["step"]

    for step in range(start, STEPS):
        inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(1000 * step + rank))
        optimizer.zero_grad()
        nn.functional.cross_entropy(ddp(inputs), (inputs @ teacher).argmax(1)).backward()
        optimizer.step()
        if (step + 1) % EVERY == 0:
            place = folder / f"step-{step + 1}"
            gradwire.save(hook, place)  # gradwire: succeeds on all ranks or on none
            if rank == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
                torch.save(state, place / "model.pt")
                (folder / "next").write_text(place.name)
                (folder / "next").replace(latest)  # from here on this save counts

    digest = hashlib.sha256(torch.cat([param.detach().flatten() for param in model.parameters()]).numpy()).hexdigest()
    print(f"rank {rank} of {dist.get_world_size()}: steps {start} to {hook.step}, model {digest[:12]}")
    hook.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
