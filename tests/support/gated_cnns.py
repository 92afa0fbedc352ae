"""Networks whose activations are multiplied with each other, in the shapes in which people have them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from user_cnns import settled

Activation = Callable[[], nn.Module]


class SqueezeExcitation(nn.Module):
    """As torchvision has it: a pool, two convolutions of single entries, and the product."""

    def __init__(self, channels: int, squeezed: int, gate: Activation = nn.Sigmoid) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale_activation = nn.ReLU(), gate()

    def _scale(self, input: Tensor) -> Tensor:
        scale = self.avgpool(input)
        scale = self.fc1(scale)
        scale = self.activation(scale)
        scale = self.fc2(scale)
        result: Tensor = self.scale_activation(scale)
        return result

    def forward(self, input: Tensor) -> Tensor:
        scale = self._scale(input)
        return scale * input


class SqueezeExcite(nn.Module):
    """As timm has it: a mean in place of a pool, and gates and activations of its own."""

    def __init__(self, channels: int, squeezed: int, gate: Activation = nn.Hardsigmoid) -> None:
        super().__init__()
        self.conv_reduce, self.act1 = nn.Conv2d(channels, squeezed, 1), nn.ReLU(inplace=True)
        self.conv_expand, self.gate = nn.Conv2d(squeezed, channels, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        x_se = x.mean((2, 3), keepdim=True)
        x_se = self.conv_reduce(x_se)
        x_se = self.act1(x_se)
        x_se = self.conv_expand(x_se)
        return x * self.gate(x_se)


class SEBasicBlock(nn.Module):
    """A residual block whose branch is gated before it is added."""

    def __init__(self, channels: int, gate: Activation) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.se = SqueezeExcitation(channels, channels // 2, gate)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        out += x
        result: Tensor = self.relu2(out)
        return result


def lively(model: nn.Module) -> nn.Module:
    """As training might leave it: gates of different channels and images differ."""
    model = settled(model)
    for module in model.modules():
        if isinstance(module, (SqueezeExcitation, SqueezeExcite)):
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.weight.data *= 8
    return model


def se_resnet(gate: Activation, channels: int = 6) -> nn.Module:
    """A stem, two gated residual blocks, and a classifier."""
    stem = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    blocks = SEBasicBlock(channels, gate), SEBasicBlock(channels, gate)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)
    return lively(nn.Sequential(*stem, *blocks, *head))


class InvertedResidual(nn.Module):
    """Expansion, a convolution of each channel, a gate, and a projection without an activation."""

    def __init__(
        self,
        inputs: int,
        expanded: int,
        outputs: int,
        kernel: int,
        stride: int,
        gate: nn.Module | None,
        act: Activation,
    ) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and inputs == outputs
        layers = [nn.Conv2d(inputs, expanded, 1, bias=False), nn.BatchNorm2d(expanded, eps=1e-3), act()]
        layers += [
            nn.Conv2d(expanded, expanded, kernel, stride, kernel // 2, groups=expanded, bias=False),
            nn.BatchNorm2d(expanded, eps=1e-3), act(),
        ]  # fmt: skip
        layers += [] if gate is None else [gate]
        layers += [nn.Conv2d(expanded, outputs, 1, bias=False), nn.BatchNorm2d(outputs, eps=1e-3)]
        self.block = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.block(input)
        if self.use_res_connect:
            result += input
        return result


def mobilenet_v3(of_timm: bool) -> nn.Module:
    """A small MobileNetV3: torchvision's gates before its classifier of two layers, or timm's, which pools early."""

    def gate(channels: int) -> nn.Module:
        if of_timm:
            return SqueezeExcite(channels, channels // 4)
        return SqueezeExcitation(channels, channels // 4, nn.Hardsigmoid)

    stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3), nn.Hardswish(inplace=True)
    blocks = (
        InvertedResidual(8, 8, 8, 3, 1, gate(8), nn.ReLU), InvertedResidual(8, 16, 12, 3, 2, None, nn.ReLU),
        InvertedResidual(12, 16, 12, 5, 1, gate(16), nn.Hardswish),
    )  # fmt: skip
    if of_timm:
        last = nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 16, 1), nn.Hardswish(inplace=True), nn.Flatten(1)
        return lively(nn.Sequential(*stem, *blocks, *last, nn.Linear(16, 5)))
    last = nn.Conv2d(12, 16, 1, bias=False), nn.BatchNorm2d(16, eps=1e-3), nn.Hardswish(inplace=True)
    classifier = nn.Linear(16, 12), nn.Hardswish(inplace=True), nn.Dropout(0.2, inplace=True), nn.Linear(12, 5)
    return lively(nn.Sequential(*stem, *blocks, *last, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), *classifier))


class GatedConvolution(nn.Module):
    """Features through a tanh times a gate through a sigmoid, both of one convolution (WaveNet, PixelCNN)."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.stem, self.both = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.fc = nn.Linear(4 * channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        features, gate = self.both(torch.relu(self.stem(x))).chunk(2, dim=1)
        gated = torch.tanh(features) * torch.sigmoid(gate)
        result: Tensor = self.fc(F.adaptive_max_pool2d(gated, 2).flatten(1))
        return result
