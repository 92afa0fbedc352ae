"""An image classification experiment: a trained network found or made, converted as it needs to be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import casc_core
from casc_core.activation import check_levels
from casc_core.conversion.activation_values import watched
from casc_core.errors import ConfigError, DataError
from casc_core.reporting.predictions import Measure
from casc_core.storage.strict import of
from casc_lab.distributed import say
from casc_lab.evaluation.accuracy import Batches, logits_of
from casc_lab.evaluation.report import phase
from casc_lab.seeds import digest
from casc_lab.training import classification
from casc_lab.training.store import Store, training_facts
from casc_lab.training.task import Validation
from image_recipes.models import Residual, build
from image_recipes.training import Teacher, TrainingConfig, TrainingImages, train
from image_recipes.weights import file_digest, load_weights


@dataclass(frozen=True)
class NetworkConfig:
    """Which network.

    Args:
        model, stem, pooling: as `image_recipes.models.build` takes them.
        classes: number of classes.
        size: height and width of the images.
        q: levels of its CQReLU activations; None: plain ReLU.
        width: channels of its first stage, for the models that have the option; None: as published.
        trainable_threshold: train the threshold of each CQReLU, which is 1 otherwise.

    >>> NetworkConfig("resnet20", classes=10, size=16, width=4).plain()(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 10])
    """

    model: str
    classes: int
    size: int
    q: int | None = 8
    stem: str = "small"
    pooling: str = "max"
    width: int | None = None
    trainable_threshold: bool = False

    def built(self) -> nn.Module:
        """The network with plain ReLU and fresh weights, not tried on an image.

        Raises:
            ConfigError: an unknown name, or a number out of its range.
        """
        options = {} if self.width is None else {"width": self.width}
        return build(self.model, self.classes, self.stem, self.pooling, **options)

    def plain(self) -> nn.Module:
        """The network with plain ReLU and fresh weights.

        Raises:
            ConfigError: an unknown name, or images too small for it.
        """
        model = self.built()
        try:
            with torch.no_grad():
                model.eval()(torch.zeros(1, 3, self.size, self.size))
        except RuntimeError as error:
            raise ConfigError(
                f"{self.model} cannot take images of {self.size}x{self.size}: {error}; take larger ones (--size 32), or "
                "another model"
            ) from error
        return model.train()

    def quantised(self, model: nn.Module) -> nn.Module:
        """`model` with CQReLU in place of ReLU, if there are to be levels."""
        if self.q is None:
            return model
        return casc_core.prepare(model, adapter="cnn", q=self.q, trainable_threshold=self.trainable_threshold)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network and how it came about.

    Attributes:
        found: whether it had been trained before, with the same configuration on the same data.
        training: facts on the training.
        folder: name of the folder that holds it.
    """

    model: nn.Module
    found: bool
    training: dict[str, Any]
    folder: str


def train_or_find(
    images: TrainingImages,
    folder: Path,
    network: NetworkConfig,
    training: TrainingConfig | None,
    about: dict[str, Any],
    *,
    device: torch.device,
    weights: Path | None = None,
    fine_tuning: FineTuning | None = None,
    validation: Batches | None = None,
    retrain: bool = False,
    find_only: bool = False,
    progress: bool = True,
    precision: str = "auto",
    sync_batch_norm: bool = False,
) -> TrainedNetwork:
    """The network trained so on these images: read from `folder` if it is there, else trained and saved there.

    Args:
        images: what it learns.
        folder: a trained network has a subfolder of its own, named by a fingerprint of configuration and data.
        network: which.
        training: how it is trained; None: not at all, it is taken as the file of weights or the calibration has it.
        about: what to keep with the network: `mean`, `std`, names of the `classes`.
        device: where it trains.
        weights: file of weights to start from.
        fine_tuning: how a network with levels starts from them, if they were trained with plain ReLU; None: they are
            taken as they are, and every threshold is 1.
        validation: other images, to pick the best epoch by.
        retrain: train anew even if one is there.
        find_only: never train.
        progress, precision, sync_batch_norm: as `image_recipes.training.train` takes them.

    Raises:
        ConfigError, DataError: an argument out of range, a file that holds no such weights.
        StorageError: the folder cannot be used.
    """
    start = None if weights is None else file_digest(weights)
    how = None if training is None else dataclasses.asdict(training)
    settings = [dataclasses.asdict(network), how, about, precision, sync_batch_norm, start]
    if fine_tuning is not None:
        settings.append(
            dataclasses.asdict(fine_tuning.calibration)
            | {"temperature": fine_tuning.temperature, "weight": fine_tuning.weight, "labels": fine_tuning.labels}
        )
    store = Store(folder, digest(settings, images.digest)[:12], retrain, find_only)
    if store.found:
        model, description = store.read(
            lambda found: with_thresholds(network.quantised(network.plain()), blank_thresholds(found)),
            lambda found: network.plain(),
        )
        return TrainedNetwork(model.to(device).eval(), True, description["training"], store.home.name)
    torch.manual_seed(0 if training is None else training.seed)
    model = network.plain()
    left_out = [] if weights is None else load_weights(model, weights)
    if weights is not None and left_out:
        other = f"{weights.name} is of another number of classes"
        if training is None:
            raise DataError(f"{other}, so {', '.join(left_out)} would have to be trained: leave out --epochs 0")
        say(f"{other}: {', '.join(left_out)} start anew")
    teacher = None
    if fine_tuning is None:
        model = network.quantised(model).to(device)
    else:
        some = list(fine_tuning.images())
        calibrated = fine_tuning.calibration.apply(model.to(device).eval(), some)
        say(str(calibrated))
        about = {**about, "thresholds": {name: list(each.shape) for name, each in calibrated.thresholds.items()}}
        layers = landmarks(model, list(calibrated.thresholds), some[0])
        teacher = Teacher(model, fine_tuning.temperature, layers, fine_tuning.weight, fine_tuning.labels)
        model = calibrated.model.train()
        with_thresholds(model, calibrated.thresholds)
    result = None
    if training is not None:
        result = train(
            model,
            images,
            about["mean"],
            about["std"],
            training,
            teacher=teacher,
            validate=_validator(validation),
            checkpoint=store.checkpoint,
            progress=progress,
            precision=precision,
            sync_batch_norm=sync_batch_norm,
        )
    facts = training_facts(model, result)
    store.write(model, {"classifier": dataclasses.asdict(network), "training": facts, **about})
    return TrainedNetwork(model.eval(), False, facts, store.home.name)


def blank_thresholds(description: Mapping[str, Any]) -> dict[str, Tensor]:
    """Thresholds of the shapes that a description has, all 1: a trained network's own are filled in."""
    shapes = of(dict, description.get("thresholds", {}), "thresholds")
    return {name: torch.ones(of(list, shape, "a shape")) for name, shape in shapes.items()}


def _validator(batches: Batches | None) -> Callable[[nn.Module], Validation | None]:
    def validate(model: nn.Module) -> Validation | None:
        if batches is None:
            return None
        return classification.validation(*logits_of(model.eval(), batches))

    return validate


@dataclass(frozen=True)
class CalibrationConfig:
    """How a network that was trained with plain ReLU gets levels and thresholds.

    Args:
        q: levels.
        percentile: of what a layer's activations are on some training images; it becomes the layer's threshold.
        per_channel: a threshold for each channel instead; None: wherever a layer has channels.

    Raises:
        ConfigError: a value out of its range.
    """

    q: int = 32
    percentile: float = 99.9
    per_channel: bool | None = None

    def __post_init__(self) -> None:
        check_levels(self.q)
        if not 0.0 < self.percentile <= 100.0:
            raise ConfigError(f"percentile must lie in (0, 100]; got {self.percentile!r}")

    def apply(
        self, trained: nn.Module, batches: Iterable[Tensor], measures: Mapping[str, Measure] | None = None
    ) -> casc_core.Calibration:
        """`trained` with CQReLU in place of ReLU, calibrated on batches of images; and how far off that is.

        Args:
            measures: what its outputs are, as `casc_core.calibrate` takes it.
        """
        return casc_core.calibrate(
            trained, batches, adapter="cnn", q=self.q, percentile=self.percentile, per_channel=self.per_channel,
            measures=measures,
        )  # fmt: skip

    def calibrated(
        self,
        trained: nn.Module,
        batches: Callable[[], Iterable[Tensor]],
        facts: dict[str, Any],
        seconds: dict[str, float],
        measures: Mapping[str, Measure] | None = None,
    ) -> nn.Module:
        """The network that `apply` gives.

        Args:
            facts: to which is added what is said of it. seconds: to which its time is added.
        """
        with phase("calibrate", seconds):
            found = self.apply(trained, batches(), measures)
        say(str(found))
        facts["calibration"] = self._facts(found)
        return found.model

    def _facts(self, calibrated: casc_core.Calibration) -> dict[str, Any]:
        """What `results.json` says of a calibration."""
        return dataclasses.asdict(self) | {
            "samples": calibrated.samples, "predictions_moved": calibrated.predictions_moved,
            "logit_error": calibrated.logit_error,
        }  # fmt: skip


@dataclass(frozen=True)
class FineTuning:
    """How a network with levels starts from one that was trained with plain ReLU, and is trained towards its answers.

    Chosen by trainings of a ResNet20 with q = 4, of as many steps as eight epochs of CIFAR-10 have, on 40,000 of its
    training images. Judged by how far the answers are from the trained network's (the divergence of the softened answers)
    on images of CIFAR-100, which neither has seen: 0.46 without features, 0.41 with those at the end of each size of the
    image, 0.38 with those of each residual block.

    Args:
        calibration: where thresholds and biases start; the thresholds are trained.
        images: gives the batches to calibrate on.
        temperature, weight, labels: as `Teacher` takes them; its layers are the `landmarks`.
    """

    calibration: CalibrationConfig
    images: Callable[[], Iterable[Tensor]]
    temperature: float = 2.0
    weight: float = 10.0
    labels: float = 0.3


def landmarks(network: nn.Module, names: list[str], images: Tensor) -> tuple[str, ...]:
    """The modules whose outputs another network learns to have: residual blocks, or the last activation of each size.

    Args:
        names: of the activations.
    """
    blocks = [name for name, module in network.named_modules() if isinstance(module, Residual)]
    return tuple(blocks) or last_of_each_size(network, names, images)


def last_of_each_size(network: nn.Module, names: list[str], images: Tensor) -> tuple[str, ...]:
    """Of the named modules, those after which the image has another size, and the last.

    >>> network = nn.Sequential(nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())
    >>> last_of_each_size(network, ["0", "1", "3"], torch.zeros(1, 3, 4, 4))
    ('1', '3')
    """
    called: list[tuple[str, torch.Size]] = []
    watched(network, names, [(images,)], lambda name, value: called.append((name, value.shape[2:])))
    behind = [size for _, size in called[1:]] + [None]
    return tuple(dict.fromkeys(name for (name, size), after in zip(called, behind, strict=True) if size != after))


def with_thresholds(model: nn.Module, thresholds: Mapping[str, Tensor]) -> nn.Module:
    """A network with CQReLU whose thresholds, from here on, are trained, and that rounds to the nearest level.

    >>> model = nn.Sequential(nn.Linear(2, 3), casc_core.CQReLU(q=4), nn.Linear(3, 2))
    >>> with_thresholds(model, {"1": torch.ones(3)})[1]
    CQReLU(q=4, 3 thresholds, trainable, half_step=True)
    """
    for name, threshold in thresholds.items():
        module = model.get_submodule(name)
        if not isinstance(module, casc_core.CQReLU):
            raise ConfigError(f"{name!r} is no CQReLU")
        module.half_step = True
        module.set_threshold(threshold, trainable=True)
    return model
