"""Models and losses to measure: built-in ones, or the user's own.

The user names a factory, `module:name`. It is called without arguments, or with `rank` if it has such a parameter, and
returns (model, loss); loss(model) computes the loss of the next batch with the given model.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradwire.lab import corpus
from gradwire.lab.checks import check_name
from gradwire.lab.models.gpt import GPT
from gradwire.lab.models.resnet import resnet18

CONTEXT = 320
"""Bytes of a sequence of the built-in GPT."""


@dataclass(frozen=True)
class Workload:
    """A model, and a function that computes its loss f[] on the next batch; its argument is the model behind DDP."""

    model: nn.Module
    loss: Callable[[nn.Module], Tensor]

    def check(self) -> None:
        """Compute the loss once; ValueError if it fails or is not a tensor of one element that requires grad."""
        try:
            loss: object = self.loss(self.model)
        except Exception as error:
            raise ValueError(f"the loss fails: {type(error).__name__}: {error}") from error
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            shape = f"one of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            shape += " without a gradient" if isinstance(loss, Tensor) and not loss.requires_grad else ""
            raise ValueError(f"the loss must be a tensor of one element that depends on the model, got {shape}")


def check_gradients(model: nn.Module, method: str) -> None:
    """After a backward pass, raise ValueError if some trainable parameter has no gradient, or not a finite one."""
    named = {name: param for name, param in model.named_parameters() if param.requires_grad}
    without = [name for name, param in named.items() if param.grad is None]
    if len(without) == len(named):
        raise ValueError("the loss gives no gradient to the model: it must be computed by the model it is handed")
    if without:
        raise ValueError(f"the loss gives no gradient to {', '.join(without[:3])}: freeze what is not trained")
    check_finite(model, method)


def check_finite(model: nn.Module, method: str) -> None:
    """After a backward pass, raise ValueError if a gradient is not finite, because such steps are skipped."""
    for name, param in model.named_parameters():
        if param.grad is not None and not bool(param.grad.isfinite().all()):
            raise ValueError(
                f"the gradient of {name} is not finite under {method}: such steps are skipped, so their times say "
                "nothing; look at the loss and the inputs"
            )


def mlp(rank: int) -> Workload:
    """5.8 M parameters in three layers, 64 random pictures of 784 values a step; about 35 ms on a core."""
    layers = nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10)
    rng = torch.Generator().manual_seed(rank)
    pictures = torch.randn(64, 784, generator=rng)
    classes = torch.randint(10, (64,), generator=rng)
    return Workload(nn.Sequential(*layers), lambda model: F.cross_entropy(model(pictures), classes))


def gpt(rank: int) -> Workload:
    """10.9 M parameters in six blocks of width 384, two sequences of the corpus a step; about 400 ms."""
    text, rng = corpus.standard_library(), torch.Generator().manual_seed(rank)
    return Workload(GPT(384, 6, 6, CONTEXT), lambda model: model(*text.batch(2, CONTEXT, rng)))


def resnet(rank: int) -> Workload:
    """11.2 M parameters: ResNet-18 with the stem of CIFAR, three random pictures a step; about 310 ms."""
    rng = torch.Generator().manual_seed(rank)
    pictures = torch.randn(3, 3, 32, 32, generator=rng)
    classes = torch.randint(10, (3,), generator=rng)
    return Workload(resnet18(), lambda model: F.cross_entropy(model(pictures), classes))


BUILT_IN: dict[str, Callable[[int], Workload]] = {"gpt": gpt, "mlp": mlp, "resnet18": resnet}


SECONDS = 300.0
"""Time limit for a factory."""


def check_model(name: str) -> None:
    """Raise ValueError for an invalid name of a workload; whether a factory exists is checked by `make`."""
    module, colon, factory = name.partition(":")
    if not colon:
        check_name("model", name, BUILT_IN)
    elif not all(part.isidentifier() for part in module.split(".")) or not factory.isidentifier():
        raise ValueError(f"a factory looks like package.module:name, got {name!r}")


def make(name: str, rank: int) -> Workload:
    """Make the workload of a rank. All ranks get the same weights if the factory draws them from torch's generator.

    Raises:
        ValueError: there is no such factory, it fails, or it returns something else.
    """
    torch.manual_seed(0)
    if name in BUILT_IN:
        return BUILT_IN[name](rank)
    factory = _find(name)
    try:
        takes_rank = "rank" in inspect.signature(factory).parameters
        with _limited(f"it has not returned within {SECONDS} s"):
            made: object = factory(rank=rank) if takes_rank else factory()
    except (Exception, SystemExit) as error:
        raise ValueError(f"the factory {name} fails: {type(error).__name__}: {error}") from error
    parts = cast(tuple[Any, ...], made) if isinstance(made, tuple) else (made,)
    if len(parts) != 2 or not isinstance(parts[0], nn.Module) or not callable(parts[1]):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(f"the factory {name} must return a model and a function of it, (model, loss); got ({kinds})")
    return Workload(parts[0], cast(Callable[[nn.Module], Tensor], parts[1]))


@contextmanager
def _limited(sentence: str) -> Generator[None]:
    """Raise TimeoutError in the block after SECONDS; only in the main thread, as others cannot be interrupted."""

    def too_late(*_: object) -> NoReturn:
        raise TimeoutError(sentence)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, rest = signal.signal(signal.SIGALRM, too_late), signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *rest)
        signal.signal(signal.SIGALRM, before)


def _find(name: str) -> Callable[..., object]:
    """Import `module:name`, also from the working directory; ValueError if that fails."""
    check_model(name)
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:
        raise ValueError(f"the module {module} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ValueError(f"{module} has no function {attribute!r}")
    return found
