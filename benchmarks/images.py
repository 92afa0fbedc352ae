"""The convolutional networks and the images that the benchmark times."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import casc_core
from casc_lab.seeds import digest
from casc_lab.training.store import Store, training_facts

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

from detection_recipes.network import Detector
from image_recipes.augment import normalise
from image_recipes.image_set import ImageSet
from image_recipes.imagenet import IMAGENET_MEAN, IMAGENET_STD
from image_recipes.images import ImageData, load_images
from image_recipes.memory import MemoryImages
from image_recipes.models import build
from image_recipes.training import TrainingConfig, train
from image_recipes.weights import load_weights

if TYPE_CHECKING:
    from networks import Scale


class Images:
    """Images, normalised, and convolutional networks that have been trained on them (or found) when first asked for.

    Args:
        data: as `image_recipes.images.load_images` takes it; None: scikit-learn's digits.
        folder: holds a subfolder for each network; what was trained before is found there.
        scale: sizes.
        weights: of a ResNet20 that was trained with ReLU on images normalised as ImageNet's are; None: it is trained here.
    """

    def __init__(self, data: str | None, folder: Path, scale: Scale, weights: Path | None = None) -> None:
        self.data: ImageData = load_images(data or "digits", size=scale.image_size, limit_train=scale.training_images)
        if weights is not None:
            self.data = dataclasses.replace(self.data, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        self.folder, self.scale, self.weights = folder, scale, weights

    def batch(self, count: int, start: int = 0) -> Tensor:
        """`count` test images, normalised: float32 `[count, 3, H, W]`; from the first again after the last."""
        index = torch.arange(start, start + count) % len(self.data.test)
        return normalise(self.data.test.images[index], self.data.mean, self.data.std)

    def labels(self, count: int) -> Tensor:
        """Labels of the first `count` test images."""
        return self.data.test.labels[torch.arange(count) % len(self.data.test)]

    def training_batches(self, count: int) -> list[Tensor]:
        """So many training images of each class in turn, normalised, in batches."""
        images = self.data.train.balanced(count).images
        return [normalise(part, self.data.mean, self.data.std) for part in images.split(self.scale.image_batch)]

    @cached_property
    def small(self) -> tuple[nn.Sequential, dict[str, Any]]:
        """Three convolutions with CQReLU, and facts on their training."""
        scale = self.scale
        torch.manual_seed(0)
        model = casc_core.prepare(plain(scale.channels, len(self.data.classes)), adapter="cnn", q=scale.image_q)
        facts = self._train_or_find(
            "convolution", model, [list(scale.channels), scale.image_q], scale.image_epochs, self.data.train
        )
        assert isinstance(model, nn.Sequential)
        return model, facts

    @cached_property
    def resnet20(self) -> nn.Module:
        """ResNet20 with ReLU, trained."""
        return self._with_relu("resnet20a", self.scale.resnet_width, self.weights)

    @cached_property
    def vgg16(self) -> nn.Module:
        """VGG16 with ReLU, trained."""
        return self._with_relu("vgg16", self.scale.vgg_width)

    @cached_property
    def detector(self) -> nn.Module:
        """The detector with ReLU; its weights are fresh, its batch norms have seen `scenes`."""
        torch.manual_seed(0)
        return with_statistics(Detector(3, self.scale.detector_width, stride=8), [self.scenes(8)])

    def scenes(self, count: int) -> Tensor:
        """`count` test images, enlarged to the detector's size."""
        return F.interpolate(self.batch(count), self.scale.detector_size, mode="bilinear")

    def _with_relu(self, name: str, width: int, weights: Path | None = None) -> nn.Module:
        torch.manual_seed(0)
        model = build(name, len(self.data.classes), width=width)
        if weights is not None:
            load_weights(model, weights)
            return model.eval()
        few = self.data.train.balanced(self.scale.relu_images)
        self._train_or_find(name, model, [width], self.scale.relu_epochs, few)
        return model

    def _train_or_find(
        self, name: str, model: nn.Module, sizes: list[Any], epochs: int, some: ImageSet
    ) -> dict[str, Any]:
        """Train the model in place, or read it from the folder; facts on its training."""
        images, how = MemoryImages(some), TrainingConfig(epochs=epochs, batch_size=32)
        sizes = [self.scale.image_size, *sizes, len(self.data.classes)]
        key = digest(sizes, dataclasses.asdict(how), images.digest, self.data.mean, self.data.std)[:12]
        store = Store(self.folder / name, key)
        if store.found:
            _, description = store.read(lambda found: model)
            facts: dict[str, Any] = description["training"]
        else:
            result = train(
                model, images, self.data.mean, self.data.std, how, checkpoint=store.checkpoint, progress=False
            )  # fmt: skip
            facts = training_facts(model, result)
            store.write(model, {"sizes": sizes, "training": facts})
        model.eval()
        return facts


def plain(channels: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Three 3x3 convolutions with batch norm and ReLU, a max-pool before the third, the mean over the image, linear."""
    modules: list[nn.Module] = []
    inputs = 3
    for number, outputs in enumerate(channels):
        modules += [nn.MaxPool2d(2)] * (number == 2)
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        modules += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def vgg16(width: int, classes: int, q: int) -> nn.Module:
    """VGG16 with batch norm and CQReLU, for images of 32x32; `width` is that of its first two convolutions."""
    return casc_core.prepare(build("vgg16", classes, width=width), adapter="cnn", q=q)


@torch.no_grad()
def with_statistics(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """The network with fresh weights and batch norms that have seen these images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    model.train()
    for batch in batches:
        model(batch)
    return model.eval()


def folded(model: nn.Module) -> nn.Module:
    """A copy for inference, as anyone would make it: batch norms in the convolutions before them, channels last."""
    model = copy.deepcopy(model).eval()
    before: tuple[str, nn.Module] = "", model
    for name, module in list(model.named_modules()):
        if next(module.children(), None) is not None:
            continue
        if isinstance(module, nn.BatchNorm2d):
            convolution = before[1]
            assert isinstance(convolution, nn.Conv2d)
            model.set_submodule(before[0], fuse_conv_bn_eval(convolution, module))
            model.set_submodule(name, nn.Identity())
        before = name, module
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations


def with_relu(model: nn.Module) -> nn.Module:
    """A copy with ReLU in the place of CQReLU: what the sizes cost in plain PyTorch."""
    model = copy.deepcopy(model).eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, casc_core.CQReLU):
            model.set_submodule(name, nn.ReLU())
    return model


def channels_last(x: Tensor) -> Tensor:
    """Images as convolutions read them fastest."""
    return x.contiguous(memory_format=torch.channels_last)
