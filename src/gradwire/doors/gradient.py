"""A parameter's gradient in the form that the engine averages, whether it is whole or sharded over a mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from gradwire.engine.shards import as_dtensor, shard

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def local_gradient(param: Tensor, name: str) -> Tensor:
    """Return this rank's part of `param.grad`: a contiguous view of its memory, in the part's shape.

    If the gradient's strides differ from its parameter's, `param.grad` is replaced by a copy with the parameter's
    strides. Partial sums, which tensor parallelism may leave, are reduced first; that is a collective over the
    parameter's mesh.

    Raises:
        RuntimeError: the parameter has no gradient, or a sparse one.
    """
    grad = param.grad
    if grad is None:
        raise RuntimeError(f"autograd called the hook of {name!r} without a gradient")
    if grad.is_sparse:
        raise RuntimeError(
            f"gradwire exchanges dense gradients, and that of {name!r} is sparse; build the embedding with sparse=False"
        )
    grad = param.grad = _redistributed(param, grad)
    if shard(grad).stride() != shard(param).stride():
        param.grad = grad = torch.empty_like(param.detach()).copy_(grad)
    own = shard(grad)
    return own.as_strided((own.numel(),), (1,)).view(own.shape)


def _redistributed(param: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient with its parameter's placements on the mesh."""
    spread, target = as_dtensor(grad), as_dtensor(param)
    if spread is None or target is None or spread.placements == target.placements:
        return grad
    return spread.redistribute(target.device_mesh, target.placements)


def is_nonzero(grad: Tensor) -> bool:
    """Whether a gradient has a nonzero value on any rank of its mesh. For a DTensor this is a collective."""
    if as_dtensor(grad) is None:
        return bool(grad.any())
    total = cast("DTensor", grad.abs().sum())
    return bool(total.full_tensor() != 0)
