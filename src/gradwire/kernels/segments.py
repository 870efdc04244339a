"""Top-k of many pieces of one vector: by one compiled loop, or one sort for all short ones and the long ones in turn.

The sort: a float32 magnitude's bits order as it does, so piece number and magnitude make one integer
(piece << 32) | bits, and after sorting the k-th largest of every piece stands at a known place.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradwire.kernels import compiled, gpu, host, reference
from gradwire.kernels.candidates import top_on_host
from gradwire.kernels.host import Places, Values

SHORT = 512
"""Up to here the calls for one piece cost more than sorting it among others."""


def segmented_topk(x: Tensor, spans: Sequence[tuple[int, int]], ks: Sequence[int]) -> Tensor:
    """Do what `reference.segmented_topk` does."""
    if gpu.serve(x):
        return gpu.segmented_topk(x, spans, ks)
    if compiled.serve(x):
        return compiled.segmented_topk(x, spans, ks)
    if not host.takes(x):
        return reference.segmented_topk(x, spans, ks)
    pieces = [host.values(x)[start:end] for start, end in spans]
    begins = list(itertools.accumulate(map(len, pieces), initial=0))
    short = [i for i, (piece, k) in enumerate(zip(pieces, ks, strict=True)) if 0 < k < len(piece) <= SHORT]
    found = _together([pieces[i] for i in short], [ks[i] for i in short]) if x.dtype == torch.float32 else []
    by_piece = dict(zip(short, found, strict=False))
    parts = [np.empty(0, np.int64)]
    for i, (piece, k) in enumerate(zip(pieces, ks, strict=True)):
        part = by_piece[i] if i in by_piece else top_on_host(piece, k)
        part += begins[i]
        parts.append(part)
    return torch.from_numpy(np.concatenate(parts))


def _together(pieces: Sequence[Values], ks: Sequence[int]) -> list[Places]:
    """Positions inside each float32 piece, 0 < k < its size; nothing where ties at a border need more than counting."""
    if len(pieces) < 2:
        return []
    sizes, wanted = np.array([len(piece) for piece in pieces]), np.array(ks)
    ends = sizes.cumsum()
    keys = np.repeat(np.arange(len(pieces)) << 32, sizes)
    keys |= np.concatenate(pieces).view(np.int32) & np.int32(0x7FFFFFFF)
    least = np.sort(keys)[ends - wanted]
    kept: Places = (keys >= np.repeat(least, sizes)).nonzero()[0]
    if len(kept) != wanted.sum():
        return []
    kept -= np.repeat(ends - sizes, wanted)
    bounds = itertools.pairwise([0, *wanted.cumsum().tolist()])
    return [kept[start:end] for start, end in bounds]
