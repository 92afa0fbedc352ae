"""Training of image classifiers: AdamW or SGD, warm-up and cosine, label smoothing, augmentation, mixed precision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.errors import ConfigError
from casc_core.reporting.predictions import reading
from casc_lab.distributed import Share, device_of
from casc_lab.training import loop as training
from casc_lab.training.loop import TrainingResult
from casc_lab.training.seeds import digest
from casc_lab.training.task import Epoch, Part, Validation, learning_rate_share
from image_recipes.augment import normalise

OPTIMIZERS = {"adamw": 0.01, "sgd": 0.1}
"""Largest learning rate that each starts with unless told otherwise."""


@dataclass(frozen=True)
class TrainingConfig:
    """How `train` trains; the defaults are the paper's, but for the learning rate of AdamW, for which it has 0.1.

    Args:
        epochs: passes over the training images.
        batch_size: images in a batch, those of all processes together.
        optimizer: "adamw" or "sgd" (with `momentum`).
        lr: largest learning rate; None: 0.1 for SGD, 0.01 for AdamW. It rises linearly over the `warm_up` share of all
            steps and falls to 0 as a cosine.
        warm_up: share of the steps, in [0, 1).
        weight_decay: of weights with two or more dimensions, so of no bias and no batch norm.
        momentum: of SGD.
        label_smoothing: share of the target that is spread over all classes.
        clip: largest norm of the gradient; what is longer is scaled down to it.
        seed: of the order of the images, of augmentation and of every dropout.

    Raises:
        ConfigError: a value out of its range.

    >>> TrainingConfig(optimizer="sgd").learning_rate
    0.1
    """

    epochs: int = 300
    batch_size: int = 128
    optimizer: str = "adamw"
    lr: float | None = None
    warm_up: float = 0.05
    weight_decay: float = 1e-4
    momentum: float = 0.9
    label_smoothing: float = 0.1
    clip: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be an integer of at least 1; got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be an integer from 0 to 2**63 - 1; got {self.seed!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer must be one of {', '.join(map(repr, OPTIMIZERS))}; got {self.optimizer!r}")
        for name in ("learning_rate", "clip"):
            if not 0.0 < getattr(self, name) < math.inf:
                said = "lr" if name == "learning_rate" else name
                raise ConfigError(f"{said} must be positive and finite; got {getattr(self, name)!r}")
        if not 0.0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay must be at least 0 and finite; got {self.weight_decay!r}")
        for name in ("warm_up", "label_smoothing", "momentum"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be in [0, 1); got {getattr(self, name)!r}")

    @property
    def learning_rate(self) -> float:
        """`lr`, or what the optimizer starts with."""
        return OPTIMIZERS[self.optimizer] if self.lr is None else self.lr


class TrainingImages(Protocol):
    """Images to train on."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """Differs where the images, their labels, or what is done to them differ."""
        ...

    def batches(
        self, epoch: int, seed: int, batch_size: int, start: int, share: Share
    ) -> Iterator[Part[tuple[Tensor, Tensor]]]:
        """A process's parts, images uint8 `[B, 3, H, W]` and labels, of the whole batches of an epoch from `start` on."""
        ...


def train(
    model: nn.Module,
    images: TrainingImages,
    mean: tuple[float, ...],
    std: tuple[float, ...],
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
        model: `[B, 3, H, W]` to logits, on the device to train on.
        images: what it learns.
        mean, std: of each channel; they become 0 and 1.
        config: how.
        validate: accuracy and loss on other images, which picks the epoch; None: the last epoch is kept.
        checkpoint, progress, precision, sync_batch_norm, saving: as `casc_lab.training.loop.train` takes them.

    Raises:
        ConfigError: the loss is no longer a finite number; the message says what to change.
        StorageError: the checkpoint cannot be written, is damaged, or belongs to another training.
    """
    task = _ImageTask(model, images, mean, std, config, validate)
    # Convolutions are fastest on it, on CPUs and on GPUs.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations
    try:
        return training.train(
            model, task, checkpoint=checkpoint, progress=progress, precision=precision,
            sync_batch_norm=sync_batch_norm, **saving,
        )  # fmt: skip
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above


class _ImageTask:
    """Classes of images."""

    def __init__(
        self,
        model: nn.Module,
        images: TrainingImages,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        config: TrainingConfig,
        validate: Callable[[nn.Module], Validation | None],
    ) -> None:
        self.images, self.mean, self.std, self.config = images, mean, std, config
        self.validate = validate
        self.device = device_of(model)
        self.epochs, self.seed = config.epochs, config.seed
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        self.owner = digest(dataclasses.asdict(config), shapes, images.digest, mean, std)
        self.remedy = f"lower lr (now {config.learning_rate:g}) or clip (now {config.clip:g}), or check the weights"

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": self.config.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.config.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.config.learning_rate, momentum=self.config.momentum)
        return torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)

    def before_step(self, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
        share = learning_rate_share(step, steps, self.config.warm_up, "cosine")
        for group in optimiser.param_groups:
            group["lr"] = self.config.learning_rate * share
        nn.utils.clip_grad_norm_(model.parameters(), self.config.clip)

    def epoch(self, number: int, start: int, share: Share) -> Epoch[tuple[Tensor, Tensor]]:
        size = self.config.batch_size
        steps = max(1, len(self.images) // size)  # what is left over is another in each epoch
        return Epoch(steps, self.images.batches(number, self.seed, size, start, share))

    def loss(self, network: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = (part.to(self.device, non_blocking=True) for part in batch)
        pixels = normalise(images, self.mean, self.std).contiguous(memory_format=torch.channels_last)
        logits = network(pixels)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
        return loss, (reading(logits.shape).classes(logits) == labels).sum()
