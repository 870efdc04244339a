"""Language: predict the next byte of source code, by an LSTM or a small transformer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from gradwire.lab.checks import check_name
from gradwire.lab.corpus import Corpus, kinds, standard_library
from gradwire.lab.models.gpt import GPT
from gradwire.lab.models.lstm import LSTM
from gradwire.lab.training.tasks.protocol import Settings, check_file, rng, steps_in

CONTEXT = 64
SEQUENCES = 256
"""Number of windows in an evaluation."""

MODELS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {"lstm": LSTM, "gpt": lambda: GPT(64, 2, 4, CONTEXT), "gpt128": lambda: GPT(128, 4, 4, CONTEXT)}
)

ADAMW_RATES: Mapping[str, float] = MappingProxyType({"lstm": 0.16, "gpt": 8e-3, "gpt128": 4e-3})
"""Learning rates under AdamW at which dense runs of a few hundred steps reached the lowest loss.

Searched in factors of two with one seed."""


@dataclass(frozen=True)
class Language:
    """The source of CPython's standard library as bytes, in windows of 64.

    data: a text file to use instead. unlike: workers read different kinds of text, in turn Python, English, C++ and
    tables of characters; the held-out data contain all four in equal parts.
    """

    data: Path | None = None
    unlike: bool = False
    name = "language"
    metric = "perplexity"
    higher_is_better = False
    models = tuple(MODELS)
    defaults = Settings("lstm", batch=8, lr=2.0, steps=400, evaluate_every=50, momentum=0.9, clip=1.0, decay=(0.75,))

    def __post_init__(self) -> None:
        if self.unlike and self.data is not None:
            raise ValueError(f"unlike texts are the installed ones; leave out {self.data}")

    @property
    def corpora(self) -> Mapping[str, Corpus]:
        """The texts by kind, read once in a process."""
        return _kinds() if self.unlike else {self._what: _corpus(self.data)}

    @property
    def _what(self) -> str:
        return "the source of CPython's standard library" if self.data is None else str(self.data)

    @property
    def source(self) -> str:
        """What the text is, and where it was found."""
        return "; ".join(
            f"{kind}: {len(corpus.train):,} bytes to train on, {len(corpus.held_out):,} held out"
            for kind, corpus in self.corpora.items()
        )

    def adamw(self, model: str | None) -> Settings:
        """The settings under AdamW or Muon; each model has its own learning rate."""
        model = model or self.defaults.model
        check_name("model of language", model, MODELS)
        return self.defaults.under_adamw(ADAMW_RATES[model], warmup_steps=50)

    def model(self, name: str | None, seed: int) -> nn.Module:
        """Make lstm (two layers of width 96), gpt (two blocks of width 64) or gpt128 (four blocks of width 128)."""
        name = name or self.defaults.model
        check_name("model of language", name, MODELS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MODELS[name]()

    def loss(self, model: nn.Module, worker: int, workers: int, step: int, batch: int, seed: int) -> Tensor:
        """The mean loss f[], in nats per byte, on random windows."""
        corpora = list(self.corpora.values())
        tokens, targets = corpora[worker % len(corpora)].batch(batch, CONTEXT, rng("windows", seed, step, worker))
        return model(tokens, targets)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The loss in nats per byte, and the perplexity, exp(loss)."""
        model.eval()
        corpora = self.corpora.values()
        windows = [corpus.evaluation(SEQUENCES // len(corpora), CONTEXT) for corpus in corpora]
        tokens, targets = (torch.cat(parts) for parts in zip(*windows, strict=True))
        loss = model(tokens, targets).double()
        model.train()
        return {"perplexity": loss.exp().item(), "loss": loss.item()}

    def steps_per_epoch(self, workers: int, batch: int) -> int:
        """Steps that read as many bytes as there are; windows are drawn with replacement."""
        return steps_in(
            sum(len(corpus.train) for corpus in self.corpora.values()) // CONTEXT, "windows", workers, batch
        )


_kinds = functools.cache(kinds)


@functools.cache
def _corpus(file: Path | None) -> Corpus:
    """Read a text file, whose last twentieth is held out, or the standard library."""
    if file is None:
        return standard_library()
    text = torch.tensor(np.frombuffer(check_file(file).read_bytes(), np.uint8))
    cut = len(text) - len(text) // 20
    if len(text) - cut <= CONTEXT + 1:
        raise ValueError(f"{file} holds {len(text):,} bytes; language needs at least {20 * (CONTEXT + 2):,}")
    return Corpus(text[:cut], text[cut:])
