"""The contents of a distributed checkpoint, which must be read into tensors of the saved sizes."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.storage import StorageReader

from gradwire.dcp.parts import BUFFERS, HEAD


@dataclass(frozen=True)
class Source:
    """Size and dtype of every tensor of one state, by key."""

    found: dict[str, tuple[torch.Size, torch.dtype]]

    @property
    def workers(self) -> int:
        """The number of workers that saved."""
        return self.found[HEAD][0][0]

    def zeros(self, key: str) -> Tensor:
        """Return zeros of the saved size."""
        size, dtype = self.found[key]
        return torch.zeros(size, dtype=dtype)

    def whole(self) -> dict[str, Tensor]:
        """Return zeros for what every rank reads of all workers: heads, and buffers under way."""
        return {key: self.zeros(key) for key in self.found if key == HEAD or key.startswith(BUFFERS)}


def read(where: StorageReader | str | os.PathLike[str], key: str | None, wanted: Collection[str]) -> Source:
    """Find the only state with all wanted keys, under `key` if given (ValueError: there is none, or several)."""
    reader = where if isinstance(where, StorageReader) else FileSystemReader(where)
    entries = reader.read_metadata().state_dict_metadata
    tensors = {name: each for name, each in entries.items() if isinstance(each, TensorStorageMetadata)}
    found = {name: (each.size, each.properties.dtype) for name, each in tensors.items()}
    heads = [name.removesuffix(HEAD) for name in found if f".{name}".endswith(f".{HEAD}")]
    fitting = [head for head in heads if all(head + each in found for each in wanted)]
    chosen = [head for head in fitting if key is None or head == f"{key}."]
    if len(chosen) != 1:
        names = ", ".join(repr(head.removesuffix(".")) for head in heads) or "none"
        raise ValueError(f"{where} holds {len(chosen)} states that fit this hook and key={key!r}; of gradwire: {names}")
    return Source({name.removeprefix(chosen[0]): each for name, each in found.items() if name.startswith(chosen[0])})
