"""The convolutional networks and the images that the benchmark times."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import casc_core
from casc_lab.seeds import digest
from casc_lab.training.store import Store, training_facts

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

from image_recipes.augment import normalise
from image_recipes.images import ImageData, load_images
from image_recipes.memory import MemoryImages
from image_recipes.models import build
from image_recipes.training import TrainingConfig, train

if TYPE_CHECKING:
    from networks import Scale


class Images:
    """Images, normalised, and a convolutional network that has been trained on them (or found) when first asked for.

    Args:
        data: as `cnn.images.load_images` takes it; None: scikit-learn's digits.
        folder: holds a subfolder `convolution`; what was trained before is found there.
        scale: sizes.
    """

    def __init__(self, data: str | None, folder: Path, scale: Scale) -> None:
        self.data: ImageData = load_images(data or "digits", size=scale.image_size, limit_train=scale.training_images)
        self.folder, self.scale = folder / "convolution", scale
        self._trained: tuple[nn.Sequential, dict[str, Any]] | None = None

    def batch(self, count: int, start: int = 0) -> Tensor:
        """`count` test images, normalised: float32 `[count, 3, H, W]`; from the first again after the last."""
        index = torch.arange(start, start + count) % len(self.data.test)
        return normalise(self.data.test.images[index], self.data.mean, self.data.std)

    def labels(self, count: int) -> Tensor:
        """Labels of the first `count` test images."""
        return self.data.test.labels[torch.arange(count) % len(self.data.test)]

    def trained(self) -> tuple[nn.Sequential, dict[str, Any]]:
        """The network with CQReLU, and facts on its training."""
        if self._trained is None:
            self._trained = self._train_or_find()
        return self._trained

    def _train_or_find(self) -> tuple[nn.Sequential, dict[str, Any]]:
        scale, images = self.scale, MemoryImages(self.data.train)
        how = TrainingConfig(epochs=scale.image_epochs, batch_size=32)
        sizes = [scale.image_size, list(scale.channels), scale.image_q, len(self.data.classes)]
        key = digest(sizes, dataclasses.asdict(how), images.digest, self.data.mean, self.data.std)[:12]
        store = Store(self.folder, key)
        torch.manual_seed(0)
        model = casc_core.prepare(plain(scale.channels, len(self.data.classes)), adapter="cnn", q=scale.image_q)
        assert isinstance(model, nn.Sequential)
        if store.found:
            model, description = store.read(lambda found: model)
            assert isinstance(model, nn.Sequential)
            return model.eval(), description["training"]
        result = train(
            model, images, self.data.mean, self.data.std, how, checkpoint=store.checkpoint, progress=False
        )  # fmt: skip
        facts = training_facts(model, result)
        store.write(model, {"sizes": sizes, "training": facts})
        return model.eval(), facts


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


def folded(model: nn.Sequential) -> nn.Sequential:
    """A copy whose batch norms have gone into the convolutions before them, as for inference anywhere."""
    modules: list[nn.Module] = []
    for module in copy.deepcopy(model).eval():
        if isinstance(module, nn.BatchNorm2d):
            convolution = modules.pop()
            assert isinstance(convolution, nn.Conv2d)
            module = fuse_conv_bn_eval(convolution, module)
        modules.append(module)
    return nn.Sequential(*modules).eval()
