"""Residual networks for small pictures (He et al. 2016, arXiv:1512.03385), with the 3 x 3 stem of CIFAR.

`resnet18` is the network of the DEFT paper's vision task: 11,173,962 parameters for three channels. `resnet8` has one
block a stage, sixteen channels and a stem of stride two: 77,754 parameters in 29 tensors. It uses group normalisation,
so a picture's output does not depend on other pictures and there are no running statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

Norm: TypeAlias = Callable[[int], nn.Module]


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, which is a 1 x 1 convolution if the shape changes."""

    def __init__(self, channels: int, wider: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.first, self.norm1 = _conv(channels, wider, stride), norm(wider)
        self.second, self.norm2 = _conv(wider, wider, 1), norm(wider)
        same = stride == 1 and channels == wider
        shortcut = nn.Sequential(nn.Conv2d(channels, wider, 1, stride, bias=False), norm(wider))
        self.shortcut = nn.Identity() if same else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """f[batch, channels, h, w] -> f[batch, wider, h / stride, w / stride]."""
        inner = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(inner + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages that double the channels and halve the resolution, global average pooling, a linear layer."""

    def __init__(
        self, channels: int, width: int, blocks: tuple[int, ...], norm: Norm, stem_stride: int, classes: int = 10
    ) -> None:
        super().__init__()
        self.stem, self.norm = _conv(channels, width, stem_stride), norm(width)
        stages: list[nn.Module] = []
        narrow = width
        for stage, count in enumerate(blocks):
            wide = width * 2**stage
            for place in range(count):
                stages.append(ResidualBlock(narrow, wide, 2 if stage and place == 0 else 1, norm))
                narrow = wide
        self.stages, self.head = nn.Sequential(*stages), nn.Linear(narrow, classes)

    def forward(self, x: Tensor) -> Tensor:
        """f[batch, channels, h, w] -> f[batch, classes]."""
        return self.head(self.stages(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


def resnet8(channels: int = 1) -> ResNet:
    """Three blocks of 16, 32 and 64 channels, normalised in groups of eight."""
    return ResNet(channels, 16, (1, 1, 1), lambda width: nn.GroupNorm(width // 8, width), stem_stride=2)


def resnet18(channels: int = 3) -> ResNet:
    """Eight blocks of 64 to 512 channels with batch normalisation."""
    return ResNet(channels, 64, (2, 2, 2, 2), nn.BatchNorm2d, stem_stride=1)


def _conv(channels: int, wider: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, wider, 3, stride, padding=1, bias=False)
