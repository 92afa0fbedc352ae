"""Small networks with several outputs in the shapes of published ones, each with a `forward` as its authors write it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, activation: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """Convolution, batch norm and activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), activation())


class SSD(nn.Module):
    """A head of its own at each scale; boxes and classes of all scales behind one another."""

    def __init__(self, classes: int = 3, anchors: int = 2) -> None:
        super().__init__()
        self.classes = classes
        self.stages = nn.ModuleList([block(3, 6, stride=2), block(6, 8, stride=2), block(8, 8, stride=2)])
        self.boxes = nn.ModuleList(nn.Conv2d(width, anchors * 4, 3, padding=1) for width in (6, 8, 8))
        self.scores = nn.ModuleList(nn.Conv2d(width, anchors * classes, 3, padding=1) for width in (6, 8, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = [], []
        for stage, box, score in zip(self.stages, self.boxes, self.scores, strict=True):
            x = stage(x)
            boxes.append(box(x).permute(0, 2, 3, 1).contiguous())
            scores.append(score(x).permute(0, 2, 3, 1).contiguous())
        loc = torch.cat([each.view(each.size(0), -1) for each in boxes], 1)
        conf = torch.cat([each.view(each.size(0), -1) for each in scores], 1)
        return loc.view(loc.size(0), -1, 4), conf.view(conf.size(0), -1, self.classes)


class FPN(nn.Module):
    """Lateral 1x1 convolutions, nearest upsampling, sums and output convolutions, level by level from the top."""

    def __init__(self, widths: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Conv2d(width, outputs, 1) for width in widths)
        self.layer_blocks = nn.ModuleList(nn.Conv2d(outputs, outputs, 3, padding=1) for _ in widths)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        names, features = list(x.keys()), list(x.values())
        last_inner = self.inner_blocks[-1](features[-1])
        results = [self.layer_blocks[-1](last_inner)]
        for index in range(len(features) - 2, -1, -1):
            lateral = self.inner_blocks[index](features[index])
            top_down = F.interpolate(last_inner, size=lateral.shape[-2:], mode="nearest")
            last_inner = lateral + top_down
            results.insert(0, self.layer_blocks[index](last_inner))
        return OrderedDict(zip(names, results, strict=True))


class RetinaNet(nn.Module):
    """An FPN with two towers that all levels share; predictions of all levels behind one another, by name."""

    def __init__(self, classes: int = 3, anchors: int = 2, width: int = 6) -> None:
        super().__init__()
        self.classes = classes
        self.stem, self.layer1, self.layer2 = block(3, 6, stride=2), block(6, 8, stride=2), block(8, 8, stride=2)
        self.fpn = FPN((6, 8, 8), width)
        self.cls_tower = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.box_tower = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.cls_logits = nn.Conv2d(width, anchors * classes, 3, padding=1)
        self.bbox_reg = nn.Conv2d(width, anchors * 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        c1 = self.stem(x)
        c2 = self.layer1(c1)
        features = self.fpn(OrderedDict([("0", c1), ("1", c2), ("2", self.layer2(c2))]))
        scores, boxes = [], []
        for feature in features.values():
            for head, tower, size, found in (
                (self.cls_logits, self.cls_tower, self.classes, scores),
                (self.bbox_reg, self.box_tower, 4, boxes),
            ):
                each = head(tower(feature))
                n, _, h, w = each.shape
                found.append(each.view(n, -1, size, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, size))
        return {"cls_logits": torch.cat(scores, 1), "bbox_regression": torch.cat(boxes, 1)}


class FCOS(nn.Module):
    """The same without anchors: per level classes, distances to a box's sides (times the level's scale) and centreness."""

    def __init__(self, classes: int = 3, width: int = 6) -> None:
        super().__init__()
        self.stem, self.layer1 = block(3, 6, stride=2), block(6, 8, stride=2)
        self.fpn = FPN((6, 8), width)
        self.tower = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.cls, self.box, self.centre = (nn.Conv2d(width, size, 3, padding=1) for size in (classes, 4, 1))
        self.scales = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        c1 = self.stem(x)
        features = self.fpn({"p1": c1, "p2": self.layer1(c1)})
        logits, boxes, centres = [], [], []
        for level, feature in enumerate(features.values()):
            tower = self.tower(feature)
            logits.append(self.cls(tower))
            boxes.append(self.box(tower) * self.scales[level])
            centres.append(self.centre(tower))
        return logits, boxes, centres


class CenterNet(nn.Module):
    """Transposed convolutions back to a stride of four, then a heat map, sizes and offsets by name."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, 6, stride=2), block(6, 8, stride=2), block(8, 8, stride=2))
        self.deconv_layers = nn.Sequential(
            nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        )
        self.heads = {"hm": classes, "wh": 2, "reg": 2}
        for name, size in self.heads.items():
            setattr(
                self, name, nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, size, 1))
            )

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        x = self.deconv_layers(self.body(x))
        return [{name: getattr(self, name)(x) for name in self.heads}]


class YOLOv3Tiny(nn.Module):
    """Leaky ReLUs, max-pools, one of them of stride one, and two scales joined by nearest upsampling."""

    def __init__(self, outputs: int = 12) -> None:
        super().__init__()

        def leaky(inputs: int, outputs: int, kernel: int = 3) -> nn.Module:
            convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.125))

        self.first = nn.Sequential(leaky(3, 4), nn.MaxPool2d(2, 2), leaky(4, 6))
        self.second = nn.Sequential(
            nn.MaxPool2d(2, 2), leaky(6, 8), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1), leaky(8, 6, 1)
        )
        self.large = nn.Sequential(leaky(6, 8), nn.Conv2d(8, outputs, 1))
        self.up = nn.Sequential(leaky(6, 4, 1), nn.Upsample(scale_factor=2, mode="nearest"))
        self.small = nn.Sequential(leaky(10, 8), nn.Conv2d(8, outputs, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x)
        second = self.second(first)
        return self.large(second), self.small(torch.cat([self.up(second), first], 1))


class Bottleneck(nn.Module):
    """Two convolutions and perhaps a shortcut."""

    def __init__(self, width: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = block(width, width, 1), block(width, width), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C3(nn.Module):
    """Two branches side by side, one of them of bottlenecks."""

    def __init__(self, inputs: int, outputs: int, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2, self.cv3 = block(inputs, half, 1), block(inputs, half, 1), block(2 * half, outputs, 1)
        self.m = nn.Sequential(Bottleneck(half, shortcut))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C2f(nn.Module):
    """The halves of a convolution, and each bottleneck behind the last, all joined."""

    def __init__(self, inputs: int, outputs: int, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2 = block(inputs, 2 * half, 1), block(3 * half, outputs, 1)
        self.m = nn.ModuleList([Bottleneck(half, shortcut)])

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    """Max-pools one behind another, and all of them joined."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = inputs // 2
        self.cv1, self.cv2, self.m = block(inputs, half, 1), block(4 * half, outputs, 1), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class YOLO(nn.Module):
    """A backbone, a neck down and up again, and a detection layer over its scales, with raw maps as in training."""

    def __init__(self, stage: type[nn.Module], outputs: int = 8) -> None:
        super().__init__()
        self.stem = block(3, 4, stride=2)
        self.stage1 = nn.Sequential(block(4, 8, stride=2), stage(8, 8))
        self.stage2 = nn.Sequential(block(8, 8, stride=2), stage(8, 8), SPPF(8, 8))
        self.up, self.merge1 = nn.Upsample(None, 2, "nearest"), stage(16, 8, False)
        self.down, self.merge2 = block(8, 8, stride=2), stage(16, 8, False)
        self.detect = nn.ModuleList(nn.Conv2d(8, outputs, 1) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        p1 = self.stage1(self.stem(x))
        p2 = self.stage2(p1)
        n1 = self.merge1(torch.cat([self.up(p2), p1], 1))
        n2 = self.merge2(torch.cat([self.down(n1), p2], 1))
        maps = [n1, n2]
        for index, layer in enumerate(self.detect):
            maps[index] = layer(maps[index])
        return maps


class UNet(nn.Module):
    """Down and up again with joins; a map of classes, and one at half the size for deep supervision."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.inc, self.down1, self.down2 = block(3, 4), block(4, 6), block(6, 8)
        self.up1, self.up2 = nn.ConvTranspose2d(8, 6, 2, 2), nn.ConvTranspose2d(6, 4, 2, 2)
        self.conv1, self.conv2 = block(12, 6), block(8, 4)
        self.aux, self.outc = nn.Conv2d(6, classes, 1), nn.Conv2d(4, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x1 = self.inc(x)
        x2 = self.down1(F.max_pool2d(x1, 2))
        x3 = self.down2(F.max_pool2d(x2, 2))
        middle = self.conv1(torch.cat([x2, self.up1(x3)], 1))
        last = self.conv2(torch.cat([x1, self.up2(middle)], 1))
        return OrderedDict(out=self.outc(last), aux=self.aux(middle))


class GoogLeNetOutputs(NamedTuple):
    """What a GoogLeNet returns: the logits, and those of its auxiliary heads."""

    logits: Tensor
    aux_logits2: Tensor | None
    aux_logits1: Tensor | None


class Inception(nn.Module):
    """Four branches, joined."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1, self.branch2 = block(inputs, 2, 1), nn.Sequential(block(inputs, 2, 1), block(2, 2))
        self.branch3 = nn.Sequential(block(inputs, 2, 1), block(2, 2, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), block(inputs, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """Inception blocks with auxiliary classifiers between them; without some of these, None in their place."""

    def __init__(self, classes: int = 4, second: bool = True) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.third = block(3, 6, stride=2), Inception(6), Inception(8), Inception(8)
        self.aux1 = self._auxiliary(classes)
        self.aux2 = self._auxiliary(classes) if second else None
        self.avgpool, self.dropout, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(0.2), nn.Linear(8, classes)

    @staticmethod
    def _auxiliary(classes: int) -> nn.Module:
        layers = nn.AdaptiveAvgPool2d((2, 2)), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Flatten(1), nn.Linear(16, 6), nn.ReLU()
        return nn.Sequential(*layers, nn.Dropout(0.7), nn.Linear(6, classes))

    def forward(self, x: Tensor) -> GoogLeNetOutputs:
        x = self.first(self.stem(x))
        aux1 = self.aux1(x)
        x = self.second(x)
        aux2 = None if self.aux2 is None else self.aux2(x)
        x = torch.flatten(self.avgpool(self.third(x)), 1)
        return GoogLeNetOutputs(self.fc(self.dropout(x)), aux2, aux1)


@dataclass
class Estimate:
    """A number, and how sure it is."""

    mean: Tensor
    log_variance: Tensor


class Regression(nn.Module):
    """A perceptron with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(12, 2), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Estimate:
        features = self.body(x)
        return Estimate(mean=self.mean(features), log_variance=self.log_variance(features))


class TwoTopics(nn.Module):
    """A recurrent text classifier with a head for its topic and one for each token."""

    def __init__(self, classes: int = 4, tags: int = 3) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(20, 6), nn.RNN(6, 8, batch_first=True)
        self.topic, self.tag = nn.Linear(8, classes), nn.Linear(8, tags)

    def forward(self, tokens: Tensor) -> dict[str, Any]:
        states, _ = self.rnn(self.embedding(tokens))
        return {"topic": self.topic(states.mean(1)), "tags": self.tag(states)}


IMAGE_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "SSD": SSD,
    "RetinaNet": RetinaNet,
    "FCOS": FCOS,
    "CenterNet": CenterNet,
    "YOLOv3-tiny": YOLOv3Tiny,
    "YOLOv5": lambda: YOLO(C3),
    "YOLOv8": lambda: YOLO(C2f),
    "U-Net": UNet,
    "GoogLeNet": GoogLeNet,
    "GoogLeNet without one of its heads": lambda: GoogLeNet(second=False),
}
"""All take images `[N, 3, 16, 16]`."""
