"""Training of the detector: AdamW or SGD, warm-up and cosine, averaged weights, mixed precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from image_recipes.augment import normalise
from torch import Tensor, nn

from casc_lab.seeds import digest
from casc_lab.training import loop
from casc_lab.training.checks import check_numbers
from casc_lab.training.classification import shapes
from casc_lab.training.descent import DescentConfig, DescentTask
from casc_lab.training.loop import TrainingResult
from casc_lab.training.task import Validation
from detection_recipes.batches import MEAN, STD, TrainingBatches
from detection_recipes.targets import Objects, loss_and_right


@dataclass(frozen=True)
class TrainingConfig(DescentConfig):
    """How the detector is trained; the defaults are the paper's, where it says.

    Args:
        averaging: how much each step leaves of the average of the weights, which is what is kept. The others: as
            `DescentConfig` takes them.

    Raises:
        ConfigError: a value out of its range.

    >>> TrainingConfig().learning_rate, TrainingConfig(optimizer="adamw").learning_rate
    (0.001, 0.002)
    """

    OPTIMIZERS: ClassVar[Mapping[str, float]] = {"adamw": 2e-3, "sgd": 1e-3}

    epochs: int = 200
    batch_size: int = 64
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    clip: float = 10.0
    averaging: float = 0.998

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, positive=("averaging",), shares=("averaging",))


def train(
    model: nn.Module,
    images: TrainingBatches,
    stride: int,
    config: TrainingConfig,
    *,
    validate: Callable[[nn.Module], Validation | None] = lambda model: None,
    **how: Any,
) -> TrainingResult:
    """Train `model` in place; `casc_lab.training.loop.train` says what is promised.

    Args:
        model: a `Detector`, or one with CQReLU, on the device to train on.
        images: what it learns.
        stride: of the detector.
        config: how.
        validate: mean average precision on other images, which picks the epoch; None of it: the last epoch is kept.
        how: as `casc_lab.training.loop.train` takes it.

    Raises:
        ConfigError: the loss is no longer a finite number; the message says what to change.
        StorageError: the checkpoint cannot be written, is damaged, or belongs to another training.
    """
    task = _DetectionTask(model, images, stride, config, validate)
    with loop.channels_last(model):
        return loop.train(model, task, averaging=config.averaging, **how)


class _DetectionTask(DescentTask[tuple[Tensor, Objects]]):
    """Objects on images. An image is right if the cell of each of its objects says so, and of which class it is."""

    def __init__(
        self,
        model: nn.Module,
        images: TrainingBatches,
        stride: int,
        config: TrainingConfig,
        validate: Callable[[nn.Module], Validation | None],
    ) -> None:
        super().__init__(model, images, config, validate)
        self.stride = stride
        self.owner = digest(dataclasses.asdict(config), shapes(model), images.digest, stride)

    def loss(self, network: Callable[..., Any], batch: tuple[Tensor, Objects]) -> tuple[Tensor, Tensor]:
        pixels, objects = batch[0].to(self.device, non_blocking=True), batch[1].to(self.device)
        images = normalise(pixels, MEAN, STD).contiguous(memory_format=torch.channels_last)
        return loss_and_right(network(images), objects, self.stride)
