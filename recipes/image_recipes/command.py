"""What the command lines of both image recipes share, and an experiment for one number of levels."""

from __future__ import annotations

import argparse
import dataclasses
from argparse import SUPPRESS, BooleanOptionalAction
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import ConfigError, DataError
from casc_lab import command
from casc_lab.distributed import is_main, say
from casc_lab.evaluation.accuracy import Batches
from casc_lab.evaluation.report import Experiment, phase
from casc_lab.evaluation.sweep import report_levels
from casc_lab.training.checks import MOST, check_fits
from casc_lab.training.descent import DescentConfig
from casc_lab.training.loop import PRECISIONS
from casc_lab.training.store import describe
from image_recipes import paper
from image_recipes.experiment import CalibrationConfig, FineTuning, NetworkConfig, train_or_find
from image_recipes.models import MODELS, POOLINGS
from image_recipes.training import TrainingConfig, TrainingImages

SETTINGS = {
    "epochs": (int, "passes over the training images"),
    "batch_size": (int, "images in a training batch, those of all processes together"),
    "optimizer": (str, "adamw or sgd"),
    "lr": (float, "largest learning rate"),
    "warm_up": (float, "share of the steps in which the learning rate rises"),
    "weight_decay": (float, "of weights with two or more dimensions"),
    "label_smoothing": (float, "share of the target that is spread over all classes"),
    "clip": (float, "largest norm of the gradient"),
    "averaging": (float, "what each step leaves of the average of the weights"),
}
"""Options of training: fields of a `DescentConfig`."""


_UNLESS_TOLD = CalibrationConfig()
CALIBRATION = {
    "calibrate_q": _UNLESS_TOLD.q, "percentile": _UNLESS_TOLD.percentile, "per_channel": _UNLESS_TOLD.per_channel,
}  # fmt: skip
"""Options of a network that was trained with plain ReLU, and their defaults."""


FINE_TUNING = TrainingConfig(epochs=14, lr=3e-3, weight_decay=0.1, label_smoothing=0.0)
"""Defaults of the training with `--fine-tune`, whatever the images: the network starts close to where it is to end."""


def add_options(parser: argparse.ArgumentParser, defaults: TrainingConfig, **others: str) -> None:
    """Add the options that both image recipes have.

    Args:
        parser: the command line.
        defaults: of training.
        others: of a setting, what else its default may be.
    """
    add = parser.add_argument
    add("--model", choices=tuple(MODELS), default="resnet20")
    add("--pooling", choices=POOLINGS, default="max")
    add("--width", type=int, help="channels of the first stage (vgg16, resnet20, resnet34); default: as published")
    add("--trainable-threshold", action="store_true", help="train the threshold of each layer, which is 1 otherwise")
    add("--sweep", type=command.level_list, help="levels to compare, such as none,64,32,16,8: the paper's Table 1")
    add("--weights", type=Path, help="file of trained weights to start from: .safetensors, or a state_dict as .pth")
    about = (
        "the weights were trained with plain ReLU: start calibrated, train thresholds too, towards that network's answers "
        f"(default: {FINE_TUNING.epochs} epochs, learning rate {FINE_TUNING.lr})"
    )
    add("--fine-tune", action="store_true", help=about)
    add_training_options(parser, defaults, **others)
    add_run_options(parser, eval_batch=100)
    usual = {name: f"(default: {value})" for name, value in CALIBRATION.items()}
    about = f"levels of a network trained with plain ReLU {usual['calibrate_q']}"
    add("--calibrate-q", type=int, help=about, default=SUPPRESS)
    about = f"of its activations that is the threshold {usual['percentile']}"
    add("--percentile", type=float, help=about, default=SUPPRESS)
    about = "a threshold for each channel of it (default: wherever a layer has channels)"
    add("--per-channel", action=BooleanOptionalAction, help=about, default=SUPPRESS)


def add_training_options(parser: argparse.ArgumentParser, defaults: DescentConfig, **others: str) -> None:
    """Add an option for each of the `SETTINGS` that a training has.

    Args:
        parser: the command line.
        defaults: of training.
        others: of a setting, what else its default may be.
    """
    rates = ", ".join(f"{rate} for {name}" for name, rate in defaults.OPTIMIZERS.items())
    for name, (kind, about) in SETTINGS.items():
        if not hasattr(defaults, name):
            continue
        default = rates if name == "lr" and defaults.lr is None else getattr(defaults, name)
        also = f"; {others[name]}" if name in others else ""
        about = f"{about} (default: {default}{also})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=about, default=SUPPRESS)


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Those of the `SETTINGS` that a command line has."""
    return {name: value for name, value in vars(args).items() if name in SETTINGS}


def add_run_options(parser: argparse.ArgumentParser, eval_batch: int) -> None:
    """Add the options of how images are trained and tested on; `eval_batch` is a default."""
    add = parser.add_argument
    add("--precision", choices=PRECISIONS, default="auto", help="of training; auto: bfloat16 on GPUs that have it")
    add("--sync-bn", action="store_true", help="batch norm over all GPUs' images together")
    add("--limit-train", type=int, help="use this many training images only")
    add("--limit-test", type=int, help="use this many test images only")
    add("--eval-batch", type=int, default=eval_batch, help="images in a test batch")


@dataclass(frozen=True)
class Images:
    """The data of an experiment, ready for use.

    Attributes:
        name: "cifar10", "cifar100", "imagenet", or another; finds the paper's figures.
        train: images to train on.
        test: the test set.
        calibration: gives some batches of training images, normalised.
        test_examples: how many.
        classes, mean, std: of the data set.
        size: height and width of the images.
        stem: form of the network for images of that size.
        source: one line on what this is.
        recipe: its name.
    """

    name: str
    train: TrainingImages
    test: Batches
    calibration: Callable[[], Iterable[Tensor]]
    test_examples: int
    classes: Sequence[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    stem: str
    source: str
    recipe: str


Load = Callable[[argparse.Namespace, torch.device, dict[str, float]], tuple[Images, TrainingConfig]]
"""What a recipe has of its own: its data, and the defaults of training on them."""


def main(load: Load, args: argparse.Namespace, device: torch.device) -> None:
    """Load the images, then train or find, convert, simulate, report."""
    seconds: dict[str, float] = {}
    used = ("percentile", "per_channel") if args.fine_tune else ()
    useless = [name for name in CALIBRATION if name in vars(args) and name not in used]
    if useless and None not in _levels(args):
        option = f"--{useless[0].replace('_', '-')}"
        raise ConfigError(f"{option} is for a network trained with plain ReLU: add --q none, or leave {option} out")
    check(args)
    run(args, device, *load(args, device, seconds), seconds)


def loaded_experiment(
    load: Load, args: argparse.Namespace, device: torch.device, seconds: dict[str, float], find_only: bool = False
) -> Experiment:
    """The network and its test set; with `find_only`, one that had been trained before."""
    check(args)
    images, defaults = load(args, device, seconds)
    return experiment(
        args, device, images, training_config(args, defaults), args.q, args.out, seconds, find_only=find_only
    )


def check(args: argparse.Namespace) -> None:
    """Refuse at once what would fail when the images are loaded, or after the training; and fill in defaults.

    Raises:
        ConfigError: an option out of its range, or a network that this machine cannot hold. DataError: no such file.
    """
    for name, value in CALIBRATION.items():
        vars(args).setdefault(name, value)
    for q in _levels(args):
        command.check_levels("--q" if args.sweep is None else "--sweep", q)
    command.check_levels("--calibrate-q", args.calibrate_q)
    for name in ("eval_batch", "limit_train", "limit_test", "size"):
        command.check_range(f"--{name.replace('_', '-')}", getattr(args, name), MOST)
    calibration(args)
    if args.weights is None and vars(args).get("epochs") == 0:
        raise ConfigError("--epochs 0 takes trained weights as they are: name their file by --weights")
    training_config(args, TrainingConfig())
    network = NetworkConfig(args.model, 2, 0, pooling=args.pooling, width=args.width)
    check_fits(network.built, "choose a smaller --width, or another --model")
    if args.fine_tune and args.weights is None:
        raise ConfigError(
            "--fine-tune starts from weights that were trained with plain ReLU: name their file by --weights"
        )
    if args.fine_tune and None in _levels(args):
        raise ConfigError("--fine-tune is for a network with levels: give them by --q or --sweep, without none")
    if args.weights is not None and not args.weights.is_file():
        raise DataError(f"cannot read {args.weights}: there is no such file")


def _levels(args: argparse.Namespace) -> list[int | None]:
    """Every number of levels that there is to be a network of."""
    return [args.q] if args.sweep is None else list(args.sweep)


def calibration(args: argparse.Namespace) -> CalibrationConfig:
    """How a network with plain ReLU is calibrated."""
    return CalibrationConfig(args.calibrate_q, args.percentile, args.per_channel)


def run(
    args: argparse.Namespace,
    device: torch.device,
    images: Images,
    defaults: TrainingConfig,
    seconds: dict[str, float],
) -> None:
    """Train or find, convert, simulate, report; for one number of levels, or for each of `--sweep`.

    Args:
        args, device: as `casc_lab.command.run` hands them over.
        images: the data.
        defaults: of training; what the command line says goes before them.
        seconds: time of the phases so far.
    """
    training = training_config(args, defaults)
    report_levels(
        args,
        lambda q, folder, spent: experiment(args, device, images, training, q, folder, spent),
        seconds,
        images.source,
        lambda: images.train.digest,
        paper.levels(images.name, args.model),
        args.model,
    )


def training_config(args: argparse.Namespace, defaults: TrainingConfig) -> TrainingConfig | None:
    """The defaults, but for what the command line says; None: no training, which `--epochs 0` asks for."""
    given = given_settings(args)
    untrained = given.get("epochs") == 0
    if untrained:
        del given["epochs"]
    if args.fine_tune:
        defaults = FINE_TUNING
    config = dataclasses.replace(defaults, seed=args.seed, **given)
    return None if untrained else config


def experiment(
    args: argparse.Namespace,
    device: torch.device,
    images: Images,
    training: TrainingConfig | None,
    q: int | None,
    folder: Path,
    seconds: dict[str, float],
    find_only: bool = False,
) -> Experiment:
    """The network trained with this many levels, and its test set; with `find_only`, one that had been trained before."""
    progress = is_main() and not args.quiet
    title = f"{images.source.split(':')[0]}, {args.model}, q={'none' if q is None else q}"
    say(title)
    network = NetworkConfig(
        args.model, len(images.classes), images.size, q, images.stem, args.pooling, args.width, args.trainable_threshold
    )
    with phase("train", seconds):
        how = calibration(args)
        start = (
            FineTuning(dataclasses.replace(how, q=q), images.calibration) if args.fine_tune and q is not None else None
        )
        about = {"mean": images.mean, "std": images.std, "classes": list(images.classes)}
        trained = train_or_find(
            images.train, folder, network, training, about, device=device, weights=args.weights, fine_tuning=start,
            retrain=args.retrain, find_only=find_only, progress=progress, precision=args.precision,
            sync_batch_norm=args.sync_bn,
        )  # fmt: skip
    say(describe(trained.found, trained.training))
    converted, facts = trained.model, dict(trained.training)
    if q is None:
        converted = how.calibrated(trained.model, images.calibration, facts, seconds)
    return Experiment(
        network=converted, adapter="cnn", batches=images.test, title=title, data=images.source,
        train_examples=len(images.train), test_examples=images.test_examples, q=q, classifier=trained.folder,
        training=facts, trained=trained.model, published=paper.over_time(images.name, args.model, q),
        calibration=lambda: ((some,) for some in images.calibration()), recipe=images.recipe,
    )  # fmt: skip
