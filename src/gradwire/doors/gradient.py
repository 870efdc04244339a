"""A parameter's gradient as an engine takes it, whether it is whole or spread over a mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from gradwire.engine.shards import as_dtensor, shard

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def laid(param: Tensor, name: str) -> Tensor:
    """This rank's part of `param.grad`: its own memory as a contiguous view, in the part's shape.

    A gradient that lies otherwise than its parameter is laid anew. Tensor parallelism may leave partial sums; they are
    added up first, which all ranks of the parameter's mesh do together.

    Raises:
        RuntimeError: there is no gradient, or a sparse one.
    """
    grad = param.grad
    if grad is None:
        raise RuntimeError(f"autograd called the hook of {name!r} without a gradient")
    if grad.is_sparse:
        raise RuntimeError(
            f"gradwire exchanges dense gradients, and that of {name!r} is sparse; build the embedding with sparse=False"
        )
    grad = param.grad = _placed(param, grad)
    if shard(grad).stride() != shard(param).stride():
        param.grad = grad = torch.empty_like(param.detach()).copy_(grad)
    own = shard(grad)
    return own.as_strided((own.numel(),), (1,)).view(own.shape)


def _placed(param: Tensor, grad: Tensor) -> Tensor:
    """The gradient spread over the mesh as its parameter is."""
    spread, home = as_dtensor(grad), as_dtensor(param)
    if spread is None or home is None or spread.placements == home.placements:
        return grad
    return spread.redistribute(home.device_mesh, home.placements)


def holds_anything(grad: Tensor) -> bool:
    """Whether a gradient has a value other than zero, on any rank of its mesh, which all ask together."""
    if as_dtensor(grad) is None:
        return bool(grad.any())
    total = cast("DTensor", grad.abs().sum())
    return bool(total.full_tensor() != 0)
