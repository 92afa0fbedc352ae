"""A detector found or trained: with plain ReLU first, then calibrated and trained with levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from image_recipes.experiment import CalibrationConfig, TrainedNetwork, blank_thresholds, with_thresholds
from image_recipes.weights import file_digest, load_weights
from torch import Tensor, nn

import casc_core
from casc_core.errors import ConfigError
from casc_lab.distributed import say
from casc_lab.seeds import digest
from casc_lab.training.store import Store, training_facts
from detection_recipes.batches import TrainingBatches
from detection_recipes.network import MEASURES, Detector
from detection_recipes.training import TrainingConfig, train

KIND = "detector"
"""What the folder of a trained network is called."""


@dataclass(frozen=True)
class NetworkConfig:
    """Which detector.

    Args:
        classes, width, stride: as `Detector` takes them.
        size: width and height of what it sees, in pixels, multiples of the stride.

    Raises:
        ConfigError: a value out of its range.
    """

    classes: int
    size: tuple[int, int]
    width: float = 1.0
    stride: int = 32

    def __post_init__(self) -> None:
        if any(side < self.stride or side % self.stride for side in self.size):
            wide, high = self.size
            raise ConfigError(
                f"the sides of the image must be multiples of the stride, {self.stride}; got {wide}x{high}"
            )

    def plain(self) -> Detector:
        """It with plain ReLU and fresh weights."""
        return Detector(self.classes, self.width, self.stride)

    def with_levels(self, model: nn.Module, q: int | None) -> nn.Module:
        """`model` with CQReLU in place of ReLU, if there are to be levels."""
        return model if q is None else casc_core.prepare(model, adapter="cnn", q=q)


@dataclass(frozen=True)
class Schedule:
    """How a detector is trained.

    Args:
        q: levels; None: plain ReLU alone.
        relu: with plain ReLU, first; None: levels from the first step on.
        levels: with levels.
        percentile: of the activations behind plain ReLU that becomes the threshold of a channel.
        weights: file of a backbone to start from, VGG16 with batch norm under torchvision's names.
    """

    q: int | None
    relu: TrainingConfig | None
    levels: TrainingConfig
    percentile: float = 99.9
    weights: Path | None = None

    def __post_init__(self) -> None:
        if self.q is None and self.relu is None:
            raise ConfigError(
                "a detector without levels is trained with plain ReLU: give --relu-epochs above 0, or levels"
            )


def train_or_find(
    images: TrainingBatches,
    calibration: Callable[[], Iterable[Tensor]],
    folder: Path,
    network: NetworkConfig,
    schedule: Schedule,
    about: dict[str, Any],
    *,
    device: torch.device,
    relu_folder: Path | None = None,
    retrain: bool = False,
    find_only: bool = False,
    **how: Any,
) -> TrainedNetwork:
    """The detector trained so on these images: read from `folder` if it is there, else trained and saved there.

    Args:
        images: what it learns.
        calibration: gives some batches of training images, as the network sees them.
        folder: each trained network has a subfolder of its own, named by a fingerprint of configuration and data.
        network: which.
        schedule: how it is trained.
        about: what to keep with the network.
        device: where it trains.
        relu_folder: where the detector with plain ReLU is kept, which is one for all numbers of levels; None: `folder`.
        retrain: train anew even if one is there.
        find_only: never train.
        how: `progress`, `precision`, `sync_batch_norm`, as `detection_recipes.training.train` takes them.

    Raises:
        ConfigError, DataError: an argument out of range, a file that holds no such weights.
        StorageError: the folder cannot be used.
    """
    start = None if schedule.weights is None else file_digest(schedule.weights)
    relu = None if schedule.relu is None else dataclasses.asdict(schedule.relu)
    settings = [dataclasses.asdict(network), relu, start, images.digest]
    levels = None if schedule.q is None else dataclasses.asdict(schedule.levels)
    own = [schedule.q, levels, schedule.percentile, about]
    store = Store(folder, digest(settings, own)[:12], retrain, find_only, KIND)
    if store.found:
        model, description = store.read(
            lambda found: with_thresholds(network.with_levels(network.plain(), schedule.q), blank_thresholds(found)),
            lambda found: network.plain(),
        )
        return TrainedNetwork(model.to(device).eval(), True, description["training"], store.home.name)
    if schedule.relu is None:
        torch.manual_seed(schedule.levels.seed)
        plain = _with_backbone(network.plain(), schedule.weights)
        model, thresholds = network.with_levels(plain, schedule.q).to(device), {}
    else:
        first = Store(relu_folder or folder, digest(settings)[:12], retrain, False, f"{KIND}-relu")
        model, facts = _with_relu(first, images, network, schedule, schedule.relu, device, how)
        if schedule.q is None:
            store.write(model, {"detector": dataclasses.asdict(network), "training": facts, **about})
            return TrainedNetwork(model.to(device).eval(), False, facts, store.home.name)
        say("calibrating the detector with plain ReLU on some training images")
        how_calibrated = CalibrationConfig(schedule.q, schedule.percentile)
        calibrated = how_calibrated.apply(model.to(device).eval(), list(calibration()), MEASURES)
        say(f"calibrated: readouts of the network with levels are off by {100 * calibrated.logit_error:.2f}%")
        model = with_thresholds(calibrated.model.train(), calibrated.thresholds)
        thresholds = {name: list(each.shape) for name, each in calibrated.thresholds.items()}
    result = train(model, images, network.stride, schedule.levels, checkpoint=store.checkpoint, **how)
    facts = training_facts(model, result)
    store.write(model, {"detector": dataclasses.asdict(network), "training": facts, "thresholds": thresholds, **about})
    return TrainedNetwork(model.eval(), False, facts, store.home.name)


def _with_relu(
    store: Store,
    images: TrainingBatches,
    network: NetworkConfig,
    schedule: Schedule,
    config: TrainingConfig,
    device: torch.device,
    how: dict[str, Any],
) -> tuple[nn.Module, dict[str, Any]]:
    """The detector trained with plain ReLU, found or made: one for all numbers of levels; and facts on its training."""
    if store.found:
        say(f"the detector with plain ReLU is found in {store.home.name}")
        model, description = store.read(lambda found: network.plain())
        return model, description["training"]
    torch.manual_seed(config.seed)
    model = _with_backbone(network.plain(), schedule.weights).to(device)
    facts = training_facts(model, train(model, images, network.stride, config, checkpoint=store.checkpoint, **how))
    store.write(model, {"detector": dataclasses.asdict(network), "training": facts})
    return model, facts


def _with_backbone(model: Detector, weights: Path | None) -> Detector:
    """It, its backbone as a file has it; what the file has beyond `features` is not used."""
    if weights is not None:
        load_weights(_Backbone(model.features), weights, unused=("classifier.",))
    return model


class _Backbone(nn.Module):
    """The backbone under the name that it has in torchvision's VGG16."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
