"""Training by AdamW or SGD, with warm-up and cosine, on samples that are given in batches: what all image recipes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

import torch
from torch import nn

from casc_core.errors import ConfigError
from casc_lab.distributed import Share, device_of
from casc_lab.training.checks import check_numbers
from casc_lab.training.classification import learning_rate_share, remedy, set_learning_rate
from casc_lab.training.task import Epoch, Part, Validation

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class DescentConfig:
    """How a network is trained.

    Args:
        epochs: passes over the training samples.
        batch_size: samples in a batch, those of all processes together.
        optimizer: "adamw" or "sgd" (with `momentum`).
        weight_decay: of weights with two or more dimensions, so of no bias and no batch norm.
        clip: largest norm of the gradient; what is longer is scaled down to it.
        lr: largest learning rate; None: that of `OPTIMIZERS`. It rises linearly over the `warm_up` share of all steps and
            falls to 0 as a cosine.
        warm_up: share of the steps, in [0, 1).
        momentum: of SGD.
        seed: of the order of the samples, of augmentation and of every dropout.

    Raises:
        ConfigError: a value out of its range.
    """

    OPTIMIZERS: ClassVar[Mapping[str, float]]
    """Largest learning rate that each starts with unless told otherwise."""

    epochs: int
    batch_size: int
    optimizer: str
    weight_decay: float
    clip: float
    lr: float | None = None
    warm_up: float = 0.05
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in self.OPTIMIZERS:
            names = ", ".join(map(repr, self.OPTIMIZERS))
            raise ConfigError(f"optimizer must be one of {names}; got {self.optimizer!r}")
        check_numbers(
            self,
            counts=("epochs", "batch_size"),
            positive=("clip",) if self.lr is None else ("lr", "clip"),
            not_negative=("weight_decay",),
            shares=("warm_up", "momentum"),
        )

    @property
    def learning_rate(self) -> float:
        """`lr`, or what the optimizer starts with."""
        return self.OPTIMIZERS[self.optimizer] if self.lr is None else self.lr

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        """A new one, of the model's parameters."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)
        return torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)


class Samples(Protocol[BatchT]):
    """What is trained on."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """Differs where the samples, their labels, or what is done to them differ."""
        ...

    def batches(self, epoch: int, seed: int, batch_size: int, start: int, share: Share) -> Iterator[Part[BatchT]]:
        """A process's parts of the whole batches of an epoch from number `start` on."""
        ...


class DescentTask(Generic[BatchT]):
    """A `casc_lab.training.task.Task` but for its `owner` and its `loss`.

    Args:
        model: on the device to train on.
        samples: what it learns.
        config: how.
        validate: accuracy and loss on what is set aside, which picks the epoch; None of it: the last epoch is kept.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples[BatchT],
        config: DescentConfig,
        validate: Callable[[nn.Module], Validation | None],
    ) -> None:
        self.model, self.samples, self.descent, self.validate = model, samples, config, validate
        self.device = device_of(model)
        self.epochs, self.seed = config.epochs, config.seed
        self.remedy = remedy(config.learning_rate, config.clip)

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        return self.descent.optimiser(model)

    def before_step(self, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
        share = learning_rate_share(step, steps, self.descent.warm_up, "cosine")
        set_learning_rate(optimiser, self.descent.learning_rate, share)
        nn.utils.clip_grad_norm_(model.parameters(), self.descent.clip)

    def epoch(self, number: int, start: int, share: Share) -> Epoch[BatchT]:
        size = self.descent.batch_size
        steps = max(1, len(self.samples) // size)  # what is left over is another in each epoch
        return Epoch(steps, self.samples.batches(number, self.seed, size, start, share))
