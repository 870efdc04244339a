"""Train a small net with Accelerate; gradwire is two added lines, and its memories are saved with the state.

torchrun --nproc-per-node 2 examples/accelerator.py
For local steps, import prepare_local and replace `prepare` by
    model, optimizer, local = prepare_local(accelerator, model, optimizer, partial(gradwire.local, every=10))
instead of `prepare`; call `local.finish()` before an evaluation and at the end.
"""

import tempfile

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradwire.integrations.accelerate import attach  # gradwire


def main() -> None:
    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, teacher = torch.randn(6400, 64), torch.randn(64, 10)
    loader = DataLoader(TensorDataset(inputs, (inputs @ teacher).argmax(1)), batch_size=32, shuffle=True)
    handler = attach(accelerator, "ef(deft(density=0.01))")  # gradwire
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    for epoch in range(3):
        for batch, targets in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(batch), targets)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)  # clips the mean over all ranks
                optimizer.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

    [folder] = broadcast_object_list([tempfile.mkdtemp()])
    accelerator.save_state(folder)
    accelerator.load_state(folder)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    for hook in handler.hooks:  # gradwire: none in one process
        sent, dense = hook.ledger.bytes, 4 * len(flat) * hook.step
        rank = accelerator.process_index
        print(f"rank {rank}: sent {sent:,} bytes, dense {dense:,}; checksum {flat.double().sum().item()!r}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
