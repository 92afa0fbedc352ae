"""Training of image classifiers: AdamW or SGD, warm-up and cosine, label smoothing, augmentation, mixed precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from casc_lab.distributed import Share
from casc_lab.seeds import digest
from casc_lab.training import loop as training
from casc_lab.training.checks import check_numbers
from casc_lab.training.classification import loss_and_correct, shapes
from casc_lab.training.descent import DescentConfig, DescentTask, Samples
from casc_lab.training.loop import TrainingResult
from casc_lab.training.task import Epoch, Validation
from image_recipes.augment import normalise


@dataclass(frozen=True)
class TrainingConfig(DescentConfig):
    """How `train` trains; the defaults are the paper's, but for the learning rate of AdamW, for which it has 0.1.

    Args:
        label_smoothing: share of the target that is spread over all classes. The others: as `DescentConfig` takes them.

    Raises:
        ConfigError: a value out of its range.

    >>> TrainingConfig(optimizer="sgd").learning_rate
    0.1
    """

    OPTIMIZERS: ClassVar[Mapping[str, float]] = {"adamw": 0.01, "sgd": 0.1}

    epochs: int = 300
    batch_size: int = 128
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    clip: float = 5.0
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, shares=("label_smoothing",))


@dataclass(frozen=True)
class Teacher:
    """A trained network that another is trained towards: by its answers (Hinton et al. 2015, "Distilling the Knowledge in a
    Neural Network") and by what some of its layers give (Romero et al. 2015, "FitNets: Hints for Thin Deep Nets").

    Args:
        network: maps images to logits.
        temperature: what all logits are divided by, first.
        layers: modules, by names that both networks have, whose outputs are to agree.
        weight: of each of these layers when training begins. From there it falls linearly to 0: levels leave an error in
            every layer that no training takes away, and in the end only the answers count.
        labels: share of the labels themselves in what is learned; the rest is the teacher's answers.

    >>> teacher = Teacher(nn.Sequential(nn.ReLU()), temperature=2.0, layers=("0",), weight=10.0)
    >>> images, logits = torch.tensor([[1.0, 0.5]]), torch.tensor([[1.0, 0.0]])
    >>> by_labels = torch.tensor(0.0)  # does not count here
    >>> alike = teacher.loss(by_labels, images, images, [images], 0.0)
    >>> bool(alike < teacher.loss(by_labels, images, logits, [logits], 0.0))
    True
    """

    network: nn.Module
    temperature: float
    layers: tuple[str, ...] = ()
    weight: float = 0.0
    labels: float = 0.0

    def loss(
        self, by_labels: Tensor, images: Tensor, logits: Tensor, features: Sequence[Tensor], done: float
    ) -> Tensor:
        """How far another network is off.

        The mean cross-entropy of its softened logits with the teacher's, times the temperature's square, and that with the
        labels, by their shares; and `weight` times the relative squared error of each of the `layers`.

        Args:
            by_labels: its loss by the labels.
            logits, features: what it gives for these images, and what its `layers` give, as `outputs` has them.
            done: share of the training that lies behind.
        """
        with torch.no_grad(), outputs(self.network, self.layers) as own:
            target = (self.network(images).float() / self.temperature).softmax(1)
        by_answers = F.cross_entropy(logits.float() / self.temperature, target) * self.temperature**2
        loss = torch.lerp(by_answers, by_labels, self.labels)
        for expected, found in zip(own, features, strict=True):
            expected = expected.float()
            size = torch.linalg.vector_norm(expected).clamp_min(torch.finfo(torch.float32).tiny)
            relative = torch.linalg.vector_norm(found.float() - expected) / size
            loss = loss + (1.0 - done) * self.weight * relative.square()
        return loss


@contextmanager
def outputs(network: nn.Module, names: Iterable[str]) -> Iterator[list[Tensor]]:
    """Within the block, the list collects what the named modules of `network` give, in the order of their calls.

    >>> network = nn.Sequential(nn.ReLU(), nn.Flatten())
    >>> with outputs(network, ["0"]) as found:
    ...     _ = network(torch.tensor([[-1.0, 2.0]]))
    >>> found
    [tensor([[0., 2.]])]
    """
    found: list[Tensor] = []
    handles = [
        network.get_submodule(name).register_forward_hook(lambda module, inputs, output: found.append(output))
        for name in names
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


TrainingImages = Samples[tuple[Tensor, Tensor]]
"""Images to train on: parts of batches are images uint8 `[B, 3, H, W]` and labels."""


def train(
    model: nn.Module,
    images: TrainingImages,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    config: TrainingConfig,
    *,
    teacher: Teacher | None = None,
    validate: Callable[[nn.Module], Validation | None] = lambda model: None,
    **how: Any,
) -> TrainingResult:
    """Train `model` in place; `casc_lab.training.loop.train` says what is promised.

    Args:
        model: `[B, 3, H, W]` to logits, on the device to train on.
        images: what it learns.
        mean, std: of each channel; they become 0 and 1.
        config: how.
        teacher: what it is trained towards, beside the labels or in their place.
        validate: accuracy and loss on other images, which picks the epoch; None: the last epoch is kept.
        how: as `casc_lab.training.loop.train` takes it.

    Raises:
        ConfigError: the loss is no longer a finite number; the message says what to change.
        StorageError: the checkpoint cannot be written, is damaged, or belongs to another training.
    """
    task = _ImageTask(model, images, mean, std, config, teacher, validate)
    with training.channels_last(model):
        return training.train(model, task, **how)


class _ImageTask(DescentTask[tuple[Tensor, Tensor]]):
    """Classes of images."""

    def __init__(
        self,
        model: nn.Module,
        images: TrainingImages,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        config: TrainingConfig,
        teacher: Teacher | None,
        validate: Callable[[nn.Module], Validation | None],
    ) -> None:
        super().__init__(model, images, config, validate)
        self.mean, self.std, self.config, self.teacher = mean, std, config, teacher
        self.step, self.steps = 0, 1  # of the whole training
        taught = [] if teacher is None else [teacher.temperature, teacher.layers, teacher.weight, teacher.labels]
        self.owner = digest(dataclasses.asdict(config), shapes(model), images.digest, mean, std, *taught)

    def epoch(self, number: int, start: int, share: Share) -> Epoch[tuple[Tensor, Tensor]]:
        epoch = super().epoch(number, start, share)
        self.step, self.steps = number * epoch.steps + start, self.epochs * epoch.steps
        return epoch

    def loss(self, network: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = (part.to(self.device, non_blocking=True) for part in batch)
        pixels = normalise(images, self.mean, self.std).contiguous(memory_format=torch.channels_last)
        with outputs(self.model, () if self.teacher is None else self.teacher.layers) as features:
            logits = network(pixels)
        loss, correct = loss_and_correct(logits, labels, self.config.label_smoothing)
        if self.teacher is not None:
            loss = self.teacher.loss(loss, pixels, logits, features, self.step / self.steps)
        self.step += 1
        return loss, correct
