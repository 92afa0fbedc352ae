"""The convolutional networks that the recipes train: VGG16, ResNet20 and 34, RegNetX-8GF, ResNeXt50.

Each is an ordinary network of nn.Conv2d, nn.BatchNorm2d and nn.ReLU, and maps images `[B, channels, H, W]` to logits
`[B, classes]`; `casc_core.prepare(model, adapter="cnn", q=8)` makes its ReLUs quantised. Every ReLU is a module of its
own, so every layer of neurons has a name. The `state_dict` of an ImageNet form has the names and shapes of torchvision's
(vgg16_bn or vgg16, resnet34, regnet_x_8gf, resnext50_32x4d), whose weight files it therefore loads:

    build("resnet34", 1000, stem="imagenet").load_state_dict(torch.load("resnet34.pth", weights_only=True))
"""

from __future__ import annotations

import inspect
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from casc_core.errors import ConfigError

STEMS = ("small", "imagenet")
POOLINGS = ("max", "average")

Unit = list[nn.Module]  # a convolution and what follows it before the next
Block = Callable[[int, int, int], nn.Module]  # made from input channels, output channels, stride
Stages = list[tuple[int, int]]  # of each, how many blocks and output channels


def vgg16(
    classes: int, stem: str, pooling: str, channels: int = 3, batch_norm: bool = True, width: int = 64
) -> nn.Module:
    """VGG16: configuration D of Simonyan and Zisserman 2015, by default with batch norm after each convolution.

    Five pools halve the image, so it must be at least 32x32. Then follow, in ImageNet form, three linear layers on 7x7
    positions, with dropout; in small form, one linear layer on the mean over all positions. `width` is that of the first
    two convolutions; the others are 2, 4, 8 and 8 times as wide.
    """
    features: Unit = []
    inputs = channels
    for repeats, factor in ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)):
        for _ in range(repeats):
            features += _unit(inputs, factor * width, 3, bias=True, batch_norm=batch_norm)
            inputs = factor * width
        features.append(_pool(pooling, 2))
    body = {"features": _sequence(*features)}
    if stem == "small":
        return _network(body, {"classifier": nn.Linear(inputs, classes)})
    hidden = [nn.Linear(inputs * 7 * 7, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()]
    return _network(body, {"classifier": _sequence(*hidden, nn.Linear(4096, classes))}, positions=7)


def resnet20(classes: int, stem: str, pooling: str, channels: int = 3, width: int = 16) -> nn.Module:
    """ResNet20: the network for CIFAR of He et al. 2016, three stages of three blocks of two 3x3 convolutions.

    The shortcut into a new stage is a 1x1 convolution (the paper's option B). `width` is that of the first stage, 16 in
    the paper; the others are 2 and 4 times as wide.
    """
    return _resnet(stem, pooling, channels, [(3, width), (3, 2 * width), (3, 4 * width)], _basic_block, width, classes)


def resnet20a(classes: int, stem: str, pooling: str, channels: int = 3, width: int = 16) -> nn.Module:
    """ResNet20 with the shortcuts of He et al. 2016 that have no parameters (the paper's option A), as most weight files
    for CIFAR have it: where a stage halves the image, every second pixel, and zeros for the channels that are new.

    Names are those of such files: the last layer is `linear`.
    """
    stages = [(3, width), (3, 2 * width), (3, 4 * width)]
    return _resnet(stem, pooling, channels, stages, _padded_block, width, classes, last="linear")


def resnet34(classes: int, stem: str, pooling: str, channels: int = 3, width: int = 64) -> nn.Module:
    """ResNet34 of He et al. 2016: stages of 3, 4, 6 and 3 blocks of two 3x3 convolutions.

    `width` is that of the first stage; the others are 2, 4 and 8 times as wide.
    """
    stages = [(3, width), (4, 2 * width), (6, 4 * width), (3, 8 * width)]
    return _resnet(stem, pooling, channels, stages, _basic_block, width, classes)


def resnext50_32x4d(classes: int, stem: str, pooling: str, channels: int = 3) -> nn.Module:
    """ResNeXt50 (32x4d) of Xie et al. 2017: bottleneck blocks whose 3x3 convolution has 32 groups."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        branch = _numbered(*_bottleneck(inputs, outputs // 2, outputs, stride, groups=32))
        return Residual(branch, _projection("downsample", inputs, outputs, stride))

    return _resnet(stem, pooling, channels, [(3, 256), (4, 512), (6, 1024), (3, 2048)], block, 64, classes)


def regnet_x_8gf(classes: int, stem: str, pooling: str, channels: int = 3) -> nn.Module:
    """RegNetX-8.0GF of Radosavovic et al. 2020: bottleneck blocks that do not narrow, 120 channels to a group.

    Its only pool is the last mean, so `pooling` changes nothing.
    """

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        units = _bottleneck(inputs, outputs, outputs, stride, groups=max(1, outputs // 120))
        branch = {name: _sequence(*unit) for name, unit in zip("abc", units, strict=True)}
        return Residual({"f": _sequence(**branch)}, _projection("proj", inputs, outputs, stride))

    stages = regnet_stages(w_0=80, w_a=49.56, w_m=2.88, depth=23, group=120)
    stem_stride = 1 if stem == "small" else 2
    trunk = {
        f"block{number}": _sequence(**{f"block{number}-{index}": module for index, module in enumerate(blocks)})
        for number, blocks in _blocks(32, stages, block, stem_stride)
    }
    body = {"stem": _sequence(*_unit(channels, 32, 3, stem_stride)), "trunk_output": _sequence(**trunk)}
    return _network(body, {"fc": nn.Linear(stages[-1][1], classes)})


def regnet_stages(w_0: float, w_a: float, w_m: float, depth: int, group: int) -> Stages:
    """Depth and width of each stage of a RegNet, from its parameters (Radosavovic et al. 2020, section 3.3).

    Block j would be `w_0 + w_a * j` wide; that becomes the nearest `w_0 * w_m ** s` with s an integer, rounded to a
    multiple of 8. Blocks of one width make a stage, whose width is then rounded to whole groups.

    >>> regnet_stages(w_0=80, w_a=49.56, w_m=2.88, depth=23, group=120)
    [(2, 80), (5, 240), (15, 720), (1, 1920)]
    """
    steps = [round(math.log(1 + w_a * j / w_0, w_m)) for j in range(depth)]
    widths = Counter(round(w_0 * w_m**step / 8) * 8 for step in steps)
    return [(count, width if width < group else round(width / group) * group) for width, count in widths.items()]


MODELS: dict[str, Callable[..., nn.Module]] = {
    builder.__name__: builder for builder in (vgg16, resnet20, resnet20a, resnet34, regnet_x_8gf, resnext50_32x4d)
}


def build(name: str, classes: int, stem: str = "small", pooling: str = "max", **options: Any) -> nn.Module:
    """A network with fresh weights, from images `[B, channels, H, W]` to logits `[B, classes]`.

    Args:
        name: one of `MODELS`.
        classes: number of classes.
        stem: for images of which size. "imagenet": as published for 224x224. "small", for 32x32 or so: VGG ends in one
            linear layer; the others begin with a 3x3 convolution of stride 1, have no pool there, and their first stage
            works at the size of the image.
        pooling: "max" or "average", for the five pools of VGG and the one in the ImageNet stem of ResNet and ResNeXt.
            The pool before the classifier always takes the mean.
        options: `channels` of the images (3), and what else the function in `MODELS` takes: `width`, `batch_norm`.

    Raises:
        ConfigError: an unknown name, stem, pooling or option, or a value out of its range.

    >>> import torch
    >>> model = build("resnet20", classes=10)
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> sum(parameter.numel() for parameter in model.parameters())
    272474
    """
    for what, value, choices in (("model", name, tuple(MODELS)), ("stem", stem, STEMS), ("pooling", pooling, POOLINGS)):
        if value not in choices:
            raise ConfigError(f"no {what} {value!r}: choose one of {', '.join(choices)}")
    parameters = list(inspect.signature(MODELS[name]).parameters.values())[3:]
    defaults: dict[str, Any] = {parameter.name: parameter.default for parameter in parameters}
    for option, value in {"classes": classes, **options}.items():
        if option not in {"classes", *defaults}:
            raise ConfigError(f"{name} has no option {option!r} (given as {value!r}): it takes {', '.join(defaults)}")
        if isinstance(defaults.get(option), bool):
            if not isinstance(value, bool):
                raise ConfigError(f"{option} must be True or False; got {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{option} must be an integer of at least 1; got {value!r}")
    return MODELS[name](classes, stem, pooling, **options)


class Residual(nn.Module):
    """`relu(branch(x) + shortcut(x))`: the residual block of He et al. 2016, `[B, C, H, W]` to `[B, C', H', W']`.

    Args:
        branch: the modules of the branch, in order, under the names they get in this block.
        shortcut: the same for the shortcut; empty for the identity.

    >>> import torch
    >>> block = Residual({"conv": nn.Conv2d(8, 8, 3, padding=1)}, {})
    >>> list(block.state_dict())
    ['conv.weight', 'conv.bias']
    >>> block(torch.zeros(2, 8, 5, 5)).shape
    torch.Size([2, 8, 5, 5])
    """

    def __init__(self, branch: dict[str, nn.Module], shortcut: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in (branch | shortcut).items():
            self.add_module(name, module)
        self.relu = nn.ReLU()
        self._branch, self._shortcut = tuple(branch), tuple(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relu(self._through(self._branch, x) + self._through(self._shortcut, x))
        return result

    def _through(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, and zeros for `more` channels, half of them in front.

    `[B, C, H, W]` becomes `[B, C + more, H / stride, W / stride]`, rounded up.

    >>> import torch
    >>> PaddedShortcut(stride=2, more=2)(torch.arange(4.0).reshape(1, 1, 2, 2)).flatten().tolist()
    [0.0, 0.0, 0.0]
    >>> PaddedShortcut(stride=2, more=2)(torch.ones(1, 1, 4, 4)).sum((2, 3)).tolist()
    [[0.0, 4.0, 0.0]]
    """

    def __init__(self, stride: int, more: int) -> None:
        super().__init__()
        self.stride, self.more = stride, more

    def forward(self, x: Tensor) -> Tensor:
        before = self.more // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.more - before))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, more={self.more}"


def _unit(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1,
    *, bias: bool = False, batch_norm: bool = True, relu: bool = True,
) -> Unit:  # fmt: skip
    """Convolution that keeps the size of the image but for its stride, batch norm, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)
    return [convolution, *[nn.BatchNorm2d(outputs)] * batch_norm, *[nn.ReLU()] * relu]


def _pool(pooling: str, kernel: int, padding: int = 0) -> nn.Module:
    return (nn.MaxPool2d if pooling == "max" else nn.AvgPool2d)(kernel, stride=2, padding=padding)


def _basic_block(inputs: int, outputs: int, stride: int) -> nn.Module:
    return Residual(_basic_branch(inputs, outputs, stride), _projection("downsample", inputs, outputs, stride))


def _padded_block(inputs: int, outputs: int, stride: int) -> nn.Module:
    same = (inputs, 1) == (outputs, stride)
    shortcut: dict[str, nn.Module] = {} if same else {"shortcut": PaddedShortcut(stride, outputs - inputs)}
    return Residual(_basic_branch(inputs, outputs, stride), shortcut)


def _basic_branch(inputs: int, outputs: int, stride: int) -> dict[str, nn.Module]:
    return _numbered(_unit(inputs, outputs, 3, stride), _unit(outputs, outputs, 3, relu=False))


def _bottleneck(inputs: int, inner: int, outputs: int, stride: int, groups: int) -> list[Unit]:
    return [_unit(inputs, inner, 1), _unit(inner, inner, 3, stride, groups), _unit(inner, outputs, 1, relu=False)]


def _numbered(*units: Unit) -> dict[str, nn.Module]:
    """The modules of all units as conv1, bn1, relu1, conv2 and so on."""
    names = ("conv", "bn", "relu")
    return {f"{name}{n}": module for n, unit in enumerate(units, 1) for name, module in zip(names, unit, strict=False)}


def _projection(name: str, inputs: int, outputs: int, stride: int) -> dict[str, nn.Module]:
    """The shortcut: nothing, or a 1x1 convolution where the block changes the channels or the size."""
    if (inputs, 1) == (outputs, stride):
        return {}
    return {name: _sequence(*_unit(inputs, outputs, 1, stride, relu=False))}


def _blocks(inputs: int, stages: Stages, block: Block, stride: int) -> Iterator[tuple[int, list[nn.Module]]]:
    """Number and blocks of each stage. The first block has the stage's stride: `stride`, then 2."""
    for number, (depth, outputs) in enumerate(stages, 1):
        yield number, [block(inputs, outputs, stride), *(block(outputs, outputs, 1) for _ in range(1, depth))]
        inputs, stride = outputs, 2


def _resnet(
    stem: str, pooling: str, channels: int, stages: Stages, block: Block, width: int, classes: int, last: str = "fc"
) -> nn.Module:
    if stem == "small":
        entrance = _numbered(_unit(channels, width, 3))
    else:
        entrance = _numbered(_unit(channels, width, 7, stride=2)) | {"pool": _pool(pooling, 3, padding=1)}
    layers = {f"layer{number}": _sequence(*blocks) for number, blocks in _blocks(width, stages, block, stride=1)}
    return _network(entrance | layers, {last: nn.Linear(stages[-1][1], classes)})


def _network(body: dict[str, nn.Module], classifier: dict[str, nn.Module], positions: int = 1) -> nn.Module:
    """Body, mean over the image (over each of `positions` x `positions` parts of it), classifier, with fresh weights.

    Convolutions start normal, scaled by fan-out (He et al. 2015), linear layers normal with a deviation of 0.01.
    """
    network = _sequence(**body, avgpool=nn.AdaptiveAvgPool2d(positions), flatten=nn.Flatten(), **classifier)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return network


def _sequence(*numbered: nn.Module, **named: nn.Module) -> nn.Module:
    """One after the other, under their position or their name."""
    return nn.Sequential(OrderedDict({str(index): module for index, module in enumerate(numbered)} | named))
