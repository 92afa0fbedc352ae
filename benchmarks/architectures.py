"""Small networks of common architectures, by what they join, move or add between a convolution and an activation."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution, its normalisation and a ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Network(nn.Module, ABC):
    """A stem of `width` channels, what a subclass does behind it, and a head.

    Attributes:
        WIDENS: how many channels the body ends with, for each of the stem's.
    """

    WIDENS = 1.0

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.stem, self.parts = block(3, width), nn.ModuleList(self.made(width))
        self.head = nn.Linear(round(self.WIDENS * width), 4)

    @abstractmethod
    def made(self, width: int) -> list[nn.Module]:
        """The parts of the body."""

    @abstractmethod
    def body(self, x: Tensor) -> Tensor:
        """What the stem's spikes go through."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return logits


class Residual(Network):
    """Two convolutions beside their input (He et al. 2016)."""

    def made(self, width: int) -> list[nn.Module]:
        return [block(width, width), nn.Conv2d(width, width, 3, padding=1)]

    def body(self, x: Tensor) -> Tensor:
        first, second = self.parts
        return F.relu(x + second(first(x)))


class Dense(Network):
    """Two dense layers, a transition and one more (Huang et al. 2017)."""

    WIDENS = 1.5

    def made(self, width: int) -> list[nn.Module]:
        def layer(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), convolution)

        half = width // 2
        return [layer(width, half), layer(3 * half, half), layer(2 * width, width, 1), layer(width, half)]

    def body(self, x: Tensor) -> Tensor:
        one, two, transition, last = self.parts
        for each in (one, two):
            x = torch.cat([x, each(x)], 1)
        x = F.avg_pool2d(transition(x), 2)
        return F.relu(torch.cat([x, last(x)], 1))


class Joined(Network):
    """Convolutions that are joined before the activation (Iandola et al. 2016)."""

    WIDENS = 1.5

    def made(self, width: int) -> list[nn.Module]:
        return [nn.Conv2d(width, width // 2, 1), nn.Conv2d(width, width, 3, padding=1)]

    def body(self, x: Tensor) -> Tensor:
        return F.relu(torch.cat([each(x) for each in self.parts], 1))


class Skip(Network):
    """A U-Net's way down and up again (Ronneberger et al. 2015)."""

    def made(self, width: int) -> list[nn.Module]:
        return [block(width, 2 * width), nn.ConvTranspose2d(2 * width, width, 2, 2), block(2 * width, width)]

    def body(self, x: Tensor) -> Tensor:
        down, up, last = self.parts
        joined: Tensor = last(torch.cat([x, up(down(F.max_pool2d(x, 2)))], 1))
        return joined


class Shuffle(Network):
    """Half of the channels go by, and all are shuffled (Ma et al. 2018)."""

    def made(self, width: int) -> list[nn.Module]:
        return [block(width // 2, width // 2), block(width, width, 1)]

    def body(self, x: Tensor) -> Tensor:
        half, last = self.parts
        first, second = x.chunk(2, 1)
        x = torch.cat([first, half(second)], 1)
        samples, channels, height, width = x.shape
        x = x.view(samples, 2, channels // 2, height, width).transpose(1, 2).reshape(samples, channels, height, width)
        shuffled: Tensor = last(x)
        return shuffled


class Pyramid(Network):
    """What is coarse is enlarged and added to what is fine (Lin et al. 2017)."""

    def made(self, width: int) -> list[nn.Module]:
        coarse = 2 * width
        return [
            block(width, coarse, stride=2), nn.Conv2d(width, width, 1), nn.Conv2d(coarse, width, 1), block(width, width)
        ]  # fmt: skip

    def body(self, x: Tensor) -> Tensor:
        down, fine, coarse, last = self.parts
        added: Tensor = last(fine(x) + F.interpolate(coarse(down(x)), scale_factor=2))
        return added


class Squeeze(Network):
    """A gate for each channel of a residual branch (Hu et al. 2018)."""

    def made(self, width: int) -> list[nn.Module]:
        less = width // 2
        return [nn.Conv2d(width, less, 1), nn.Conv2d(less, width, 1), nn.Conv2d(width, width, 3, padding=1)]

    def body(self, x: Tensor) -> Tensor:
        less, more, last = self.parts
        gate = torch.sigmoid(more(F.relu(less(F.adaptive_avg_pool2d(x, 1)))))
        return F.relu(last(x * gate) + x)


class Pixels(Network):
    """Channels become places (Shi et al. 2016)."""

    WIDENS = 0.5

    def made(self, width: int) -> list[nn.Module]:
        return [nn.Conv2d(width, 2 * width, 3, padding=1)]

    def body(self, x: Tensor) -> Tensor:
        return F.relu(F.pixel_shuffle(self.parts[0](x), 2))


class Mixed(Network):
    """A depthwise convolution beside its own input, normalised behind the activation (Trockman, Kolter 2022)."""

    def made(self, width: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        return [nn.Sequential(depthwise, nn.ReLU(), nn.BatchNorm2d(width)), block(width, width, 1)]

    def body(self, x: Tensor) -> Tensor:
        depthwise, last = self.parts
        mixed: Tensor = last(x + depthwise(x))
        return mixed


ARCHITECTURES = (Residual, Dense, Joined, Skip, Shuffle, Pyramid, Squeeze, Pixels, Mixed)


def settled(network: type[Network], width: int, x: Tensor) -> Network:
    """A random network whose normalisations have seen `x`."""
    torch.manual_seed(0)
    model = network(width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    model(x)
    return model.eval()
