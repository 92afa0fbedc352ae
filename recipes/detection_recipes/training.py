"""Training of the detector: AdamW or SGD, warm-up and cosine, averaged weights, mixed precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from image_recipes.augment import normalise
from torch import Tensor, nn

from casc_core.errors import ConfigError
from casc_lab.distributed import Share, device_of
from casc_lab.training import loop
from casc_lab.training.checks import check_numbers
from casc_lab.training.classification import learning_rate_share, remedy, set_learning_rate, shapes
from casc_lab.training.loop import TrainingResult
from casc_lab.training.seeds import digest
from casc_lab.training.task import Epoch, Validation
from detection_recipes.batches import MEAN, STD, TrainingBatches
from detection_recipes.targets import Objects, loss_and_right

OPTIMIZERS = {"adamw": 2e-3, "sgd": 1e-3}
"""Largest learning rate that each starts with unless told otherwise."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the detector is trained; the defaults are the paper's, where it says.

    Args:
        epochs: passes over the training images.
        batch_size: images in a batch, those of all processes together.
        optimizer: "sgd" (with `momentum`) or "adamw".
        lr: largest learning rate; None: 1e-3 for SGD, 2e-3 for AdamW. It rises linearly over the `warm_up` share of all
            steps and falls to 0 as a cosine.
        warm_up: share of the steps, in [0, 1).
        weight_decay: of weights with two or more dimensions, so of no bias and no batch norm.
        momentum: of SGD.
        clip: largest norm of the gradient; what is longer is scaled down to it.
        averaging: how much each step leaves of the average of the weights, which is what is kept.
        seed: of the order of the images and of augmentation.

    Raises:
        ConfigError: a value out of its range.

    >>> TrainingConfig().learning_rate, TrainingConfig(optimizer="adamw").learning_rate
    (0.001, 0.002)
    """

    epochs: int = 200
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float | None = None
    warm_up: float = 0.05
    weight_decay: float = 5e-4
    momentum: float = 0.9
    clip: float = 10.0
    averaging: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer must be one of {', '.join(map(repr, OPTIMIZERS))}; got {self.optimizer!r}")
        check_numbers(
            self,
            counts=("epochs", "batch_size"),
            positive=("clip", "averaging") if self.lr is None else ("lr", "clip", "averaging"),
            not_negative=("weight_decay",),
            shares=("warm_up", "momentum", "averaging"),
        )

    @property
    def learning_rate(self) -> float:
        """`lr`, or what the optimizer starts with."""
        return OPTIMIZERS[self.optimizer] if self.lr is None else self.lr


def train(
    model: nn.Module,
    images: TrainingBatches,
    stride: int,
    config: TrainingConfig,
    *,
    validate: Callable[[nn.Module], Validation | None] = lambda model: None,
    checkpoint: Path | None = None,
    progress: bool = True,
    precision: str = "auto",
    sync_batch_norm: bool = False,
    **saving: Any,
) -> TrainingResult:
    """Train `model` in place; `casc_lab.training.loop.train` says what is promised.

    Args:
        model: a `Detector`, or one with CQReLU, on the device to train on.
        images: what it learns.
        stride: of the detector.
        config: how.
        validate: mean average precision on other images, which picks the epoch; None of it: the last epoch is kept.
        checkpoint, progress, precision, sync_batch_norm, saving: as `casc_lab.training.loop.train` takes them.

    Raises:
        ConfigError: the loss is no longer a finite number; the message says what to change.
        StorageError: the checkpoint cannot be written, is damaged, or belongs to another training.
    """
    task = _DetectionTask(model, images, stride, config, validate)
    with loop.channels_last(model):
        return loop.train(
            model, task, checkpoint=checkpoint, progress=progress, precision=precision,
            sync_batch_norm=sync_batch_norm, averaging=config.averaging, **saving,
        )  # fmt: skip


class _DetectionTask:
    """Objects on images. An image is right if the cell of each of its objects says so, and of which class it is."""

    def __init__(
        self,
        model: nn.Module,
        images: TrainingBatches,
        stride: int,
        config: TrainingConfig,
        validate: Callable[[nn.Module], Validation | None],
    ) -> None:
        self.images, self.stride, self.config, self.validate = images, stride, config, validate
        self.device = device_of(model)
        self.epochs, self.seed = config.epochs, config.seed
        self.owner = digest(dataclasses.asdict(config), shapes(model), images.digest, stride)
        self.remedy = remedy(config.learning_rate, config.clip)

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": self.config.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        if self.config.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.config.learning_rate, momentum=self.config.momentum)
        return torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)

    def before_step(self, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
        share = learning_rate_share(step, steps, self.config.warm_up, "cosine")
        set_learning_rate(optimiser, self.config.learning_rate, share)
        nn.utils.clip_grad_norm_(model.parameters(), self.config.clip)

    def epoch(self, number: int, start: int, share: Share) -> Epoch[tuple[Tensor, Objects]]:
        size = self.config.batch_size
        steps = max(1, len(self.images) // size)  # what is left over is another in each epoch
        return Epoch(steps, self.images.batches(number, self.seed, size, start, share))

    def loss(self, network: Callable[..., Any], batch: tuple[Tensor, Objects]) -> tuple[Tensor, Tensor]:
        pixels, objects = batch[0].to(self.device, non_blocking=True), batch[1].to(self.device)
        images = normalise(pixels, MEAN, STD).contiguous(memory_format=torch.channels_last)
        return loss_and_right(network(images), objects, self.stride)
