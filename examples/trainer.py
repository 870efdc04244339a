"""Train a small GPT-2 with Transformers' Trainer: two lines are gradwire's, and its memories are in every checkpoint.

torchrun --nproc-per-node 2 examples/trainer.py
For local steps, import local and write `local(trainer, partial(gradwire.local, every=10))`. Trainer then ends a round
before every evaluation and save, and at the end.
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from gradwire.integrations.transformers import attach  # gradwire


def sentences(vocabulary: int, length: int) -> torch.Tensor:
    """int64[2000, length]: numbers modulo `vocabulary` that count up in steps of 1, 2 or 3."""
    starts, steps = torch.randint(vocabulary, (2000, 1)), torch.randint(1, 4, (2000, 1))
    return (starts + steps * torch.arange(length)) % vocabulary


def main() -> None:
    set_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=64, n_layer=2, n_head=2))
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=60,
        per_device_train_batch_size=16,
        learning_rate=0.003,
        logging_steps=20,
        save_strategy="no",
        ddp_find_unused_parameters=False,  # else DDP communicates unused parameters at every step
        average_tokens_across_devices=False,  # else Trainer gathers token counts at every step
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    data = [{"input_ids": row, "labels": row} for row in sentences(50, 16)]
    trainer = Trainer(model, arguments, train_dataset=data)
    handler = attach(trainer, "ef(deft(density=0.01))")  # gradwire
    trainer.train()

    for log in trainer.state.log_history if trainer.is_world_process_zero() else []:
        if "loss" in log:
            print(f"step {log['step']}: loss {log['loss']:.3f}")
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    for hook in handler.hooks:  # gradwire: none in one process
        sent, dense = hook.ledger.bytes, 4 * len(flat) * hook.step
        rank = arguments.process_index
        print(f"rank {rank}: sent {sent:,} bytes, dense {dense:,}; checksum {flat.double().sum().item()!r}")


if __name__ == "__main__":
    main()
