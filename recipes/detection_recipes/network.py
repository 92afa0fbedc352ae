"""The paper's detector (section 5, "Detection Task"): VGG16, spatial pyramid pooling, two branches, three readouts."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from image_recipes.models import build
from torch import Tensor, nn

from casc_core.errors import ConfigError

STRIDES = (8, 16, 32)
PYRAMID = (5, 9, 13)
"""Sides of the max-pools beside the identity (He et al. 2015, "Spatial Pyramid Pooling")."""
CLASS_MODULES, BOX_MODULES = 2, 4
VGG_CHANNELS = 64
"""Of the first stage of VGG16; the last has eight times as many."""
MEASURES = {"objectness": "numbers", "classes": "numbers", "boxes": "numbers"}
"""What the readouts are: nothing is predicted before they are decoded."""
_PRIOR = 0.01  # probability of an object in a cell, before any training


class Readouts(NamedTuple):
    """What the detector gives for each cell of the image, a square of `stride` pixels.

    Attributes:
        objectness: `[B, 1, H, W]`, the logit of there being the centre of an object.
        classes: `[B, classes, H, W]`, logits of its class.
        boxes: `[B, 4, H, W]`, where its centre lies within the cell, and how large it is, as `detections` reads them.
    """

    objectness: Tensor
    classes: Tensor
    boxes: Tensor


class SpatialPyramid(nn.Module):
    """Max-pools of 5, 9 and 13 beside the identity: `[B, C, H, W]` to `[B, 4 C, H, W]`."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(side, stride=1, padding=side // 2) for side in PYRAMID)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(pool(x) for pool in self.pools)], 1)


class Detector(nn.Module):
    """A YOLO without anchors: each cell says whether the centre of an object lies in it, of which class, and its box.

    The backbone has the names of torchvision's `vgg16_bn`. Every ReLU is a module of its own.

    Args:
        classes: number of classes.
        width: scales all channels; 1 is the paper's.
        stride: pixels from one cell to the next. The backbone has the last pools of VGG16 for 32, one less for 16, two less
            for 8.

    Raises:
        ConfigError: a value out of its range.

    >>> detector = Detector(classes=3, width=0.125, stride=8)
    >>> [list(readout.shape) for readout in detector(torch.zeros(2, 3, 64, 96))]
    [[2, 1, 8, 12], [2, 3, 8, 12], [2, 4, 8, 12]]
    """

    def __init__(self, classes: int, width: float = 1.0, stride: int = 32) -> None:
        super().__init__()
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
            raise ConfigError(f"classes must be an integer of at least 1; got {classes!r}")
        if not 0.0 < width <= 16.0:
            raise ConfigError(f"width must lie in (0, 16]; got {width!r}")
        if stride not in STRIDES:
            raise ConfigError(f"stride must be one of {', '.join(map(str, STRIDES))}; got {stride!r}")
        self.stride = stride
        first = max(1, round(VGG_CHANNELS * width))
        last = 8 * first
        self.features = _backbone(first, stride)
        self.pyramid = SpatialPyramid()
        self.neck = _module(4 * last, last, 1)
        self.class_branch = nn.Sequential(*(_module(last, last, 3) for _ in range(CLASS_MODULES)))
        self.box_branch = nn.Sequential(*(_module(last, last, 3) for _ in range(BOX_MODULES)))
        self.objectness = nn.Conv2d(last, 1, 1)
        self.classes = nn.Conv2d(last, classes, 1)
        self.boxes = nn.Conv2d(last, 4, 1)
        for readout in (self.objectness, self.classes, self.boxes):
            nn.init.normal_(readout.weight, std=0.01)
            assert readout.bias is not None
            nn.init.zeros_(readout.bias)
        assert self.objectness.bias is not None
        nn.init.constant_(self.objectness.bias, math.log(_PRIOR / (1.0 - _PRIOR)))

    def forward(self, images: Tensor) -> Readouts:
        """Readouts for images `[B, 3, H, W]`, whose sides are multiples of the stride."""
        neck = self.neck(self.pyramid(self.features(images)))
        box = self.box_branch(neck)
        return Readouts(self.objectness(box), self.classes(self.class_branch(neck)), self.boxes(box))


def _backbone(first: int, stride: int) -> nn.Sequential:
    """The convolutions of VGG16 with batch norm; of its five pools those that make this stride."""
    features = build("vgg16", 1, width=first).get_submodule("features")
    assert isinstance(features, nn.Sequential)
    pools = [number for number, module in enumerate(features) if isinstance(module, nn.MaxPool2d)]
    for number in pools[stride.bit_length() - 1 :]:
        features[number] = nn.Identity()
    return features


def _module(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """The paper's convolutional module: convolution, batch norm, activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=convolution, bn=nn.BatchNorm2d(outputs), relu=nn.ReLU()))
