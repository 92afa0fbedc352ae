"""Object detection: train a YOLO with CQReLU, convert it, and compare four ways to simulate it (Table 4).

    python recipes/yolo.py --data voc --q 8 --T 32
    python recipes/yolo.py --data FOLDER --size 256x192 --stride 8 --width 0.125 --optimizer adamw --q 8 --T 64
    torchrun --nproc-per-node 8 recipes/yolo.py --data coco --weights vgg16_bn.pth --q 8 --T 32 --workers 8

It trains the paper's detector with plain ReLU and then with levels (or finds the one trained before with the same options
on the same images), converts it, runs the whole test set in spikes with the four methods, and writes results.json,
table.md, precision.png, detections.png and the spiking network to the output folder. Without data, it draws shapes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from argparse import SUPPRESS
from pathlib import Path

import casc_lab  # noqa: F401  # before torch: it says how torch's threads wait

if __package__:  # found by its name; a script's own folder is searched anyhow
    sys.path.insert(0, str(Path(__file__).parent))

import detection_recipes.detect
import torch
from detection_recipes import paper, shapes
from detection_recipes.batches import TrainingBatches, calibration_batches, evaluation_batches
from detection_recipes.data import load_detections
from detection_recipes.detections import Selection
from detection_recipes.evaluation import DetectionMetric
from detection_recipes.experiment import KIND, NetworkConfig, Schedule, train_or_find
from detection_recipes.network import STRIDES, Detector
from detection_recipes.picture import detections_picture
from detection_recipes.training import TrainingConfig
from detection_recipes.views import Augmentation

from casc_core.errors import ConfigError, DataError
from casc_lab import command
from casc_lab.cli import Command
from casc_lab.distributed import is_main, say
from casc_lab.evaluation.report import Experiment, phase, report
from casc_lab.training.checks import MOST, check_fits
from casc_lab.training.loop import PRECISIONS
from casc_lab.training.store import describe

DATA = "voc, coco, a folder or tar laid out as one of them, or shapes; unset: shapes, which are drawn"
FINE_TUNING = 0.25
"""Learning rate with levels, where training with plain ReLU goes before, as a share of the rate of that."""
SETTINGS = {
    "batch_size": (int, "images in a training batch, those of all processes together"),
    "optimizer": (str, " or ".join(TrainingConfig.OPTIMIZERS)),
    "lr": (float, f"largest learning rate; with levels, where plain ReLU goes before, {FINE_TUNING} of it"),
    "warm_up": (float, "share of the steps in which the learning rate rises"),
    "weight_decay": (float, "of weights with two or more dimensions"),
    "clip": (float, "largest norm of the gradient"),
    "averaging": (float, "what each step leaves of the average of the weights"),
}
NETWORK = {"size": ((640, 640), (shapes.SIZE, shapes.SIZE)), "stride": (32, 8), "width": (1.0, 0.125)}
"""Of options of the network, the defaults: the paper's, and for drawn shapes."""
PAPER = TrainingConfig(epochs=100)
SHAPES = TrainingConfig(epochs=8, batch_size=16, optimizer="adamw", lr=4e-3, averaging=0.98)
RELU_EPOCHS = {"paper": 100, "shapes": 15}
CALIBRATION_IMAGES = 64
FIGURES_OF = {"voc": ("at_50", "at_50_11", "at_50_95"), "coco": ("at_50_95", "at_50")}
"""What is shown of the precision on published data, what the paper has first."""


def image_size(text: str) -> tuple[int, int]:
    """Width and height.

    >>> image_size("640"), image_size("256x192")
    ((640, 640), (256, 192))
    """
    sides = [int(side) for side in text.lower().replace(",", "x").split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 640 or 256x192; got {text!r}")
    return sides[0], sides[-1]


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = command.parser(__doc__.split("\n\n")[0])
    command.add_options(parser, q=8, T=32, data=DATA, out="results/yolo", seed=0)
    add = parser.add_argument
    usual = {name: f"(default: {one}; {other} for shapes)" for name, (one, other) in NETWORK.items()}
    about = "of what the network sees, one side or WIDTHxHEIGHT, into which images are letterboxed"
    add("--size", type=image_size, help=f"{about} (default: 640; {shapes.SIZE} for shapes)")
    add("--stride", type=int, choices=STRIDES, help=f"pixels from one cell to the next {usual['stride']}")
    add("--width", type=float, help=f"scales all channels {usual['width']}")
    add("--weights", type=Path, help="file of a trained backbone, torchvision's vgg16_bn: .safetensors or .pth")
    default = f"(default: {RELU_EPOCHS['paper']}; {RELU_EPOCHS['shapes']} for shapes)"
    add("--relu-epochs", type=int, help=f"passes over the images with plain ReLU, first; 0: none {default}")
    default = f"(default: {PAPER.epochs}; {SHAPES.epochs} for shapes)"
    add("--epochs", type=int, help=f"passes over the images with levels {default}")
    for name, (kind, about) in SETTINGS.items():
        one, other = (config.learning_rate if name == "lr" else getattr(config, name) for config in (PAPER, SHAPES))
        default = f"(default: {one}; {other} for shapes)"
        add(f"--{name.replace('_', '-')}", type=kind, help=f"{about} {default}", default=SUPPRESS)
    add("--smallest", type=float, default=0.5, help="multi-scale training from this share of the size up; 1: none")
    for field in dataclasses.fields(Augmentation):
        if field.name != "flip":
            add(f"--{field.name}", type=float, default=field.default, help=_ABOUT[field.name])
    add("--flip", action=argparse.BooleanOptionalAction, default=True, help="mirror half of the images")
    add("--train-split", help="list or JSON file to train on (default: trainval, or else train)")
    add("--test-split", help="list or JSON file to test on (default: test, or else val)")
    selection = Selection()
    add("--score", type=float, default=selection.score, help="least score of a detection")
    add("--overlap", type=float, default=selection.overlap, help="of non-maximum suppression")
    add("--precision", choices=PRECISIONS, default="auto", help="of training; auto: bfloat16 on GPUs that have it")
    add("--sync-bn", action="store_true", help="batch norm over all GPUs' images together")
    add("--workers", type=int, default=0, help="processes, for each GPU, that read training images")
    add("--limit-train", type=int, help="use this many training images only")
    add("--limit-test", type=int, help="use this many test images only")
    add("--eval-batch", type=int, default=8, help="images in a test batch")
    return parser


_ABOUT = {
    "scale": "training images are enlarged or made smaller by up to this share",
    "stretch": "and stretched by up to this share",
    "hue": "largest change of the hue",
    "saturation": "of the saturation",
    "brightness": "of the brightness",
    "mosaic": "probability of four images in one",
}


def experiment(
    args: argparse.Namespace, device: torch.device, seconds: dict[str, float], find_only: bool = False
) -> Experiment:
    """The detector and its test set; with `find_only`, one that had been trained before."""
    schedule, selection, augmentation = _checked(args)
    with phase("data", seconds):
        data = load_detections(
            args.data, train_split=args.train_split, test_split=args.test_split, limit_train=args.limit_train,
            limit_test=args.limit_test,
        )  # fmt: skip
        say(data.source, *data.notices)
    progress = is_main() and not args.quiet
    title = f"{data.source.split(':')[0]}, YOLO, q={args.q}"
    say(title)
    network = NetworkConfig(len(data.classes), args.size, args.width, args.stride)
    images = TrainingBatches(data.train, args.size, augmentation, args.smallest, args.stride, args.workers)
    calibration = calibration_batches(data.train, args.size, CALIBRATION_IMAGES, args.eval_batch, device)
    with phase("train", seconds):
        trained = train_or_find(
            images, calibration, args.out, network, schedule, {"classes": list(data.classes)}, device=device,
            retrain=args.retrain, find_only=find_only, progress=progress, precision=args.precision,
            sync_batch_norm=args.sync_bn,
        )  # fmt: skip
    say(describe(trained.found, trained.training, KIND))
    figures = FIGURES_OF.get(args.data, ("at_50", "at_50_95"))
    metric = DetectionMetric(data.test, data.classes, args.size, args.stride, selection, figures)
    return Experiment(
        network=trained.model,
        adapter="cnn",
        batches=evaluation_batches(
            data.test, args.size, batch_size=args.eval_batch, device=device, progress=progress and not find_only
        ),
        title=title,
        data=data.source,
        train_examples=len(data.train),
        test_examples=len(data.test),
        q=args.q,
        classifier=trained.folder,
        training=trained.training,
        published=paper.over_time(args.data),
        calibration=lambda: ((some,) for some in calibration()),
        recipe="yolo",
        metric=metric,
        pictures=lambda evaluation: {"detections.png": detections_picture(evaluation, metric)},
        facts={"classes": list(data.classes)},
    )


def main(args: argparse.Namespace, device: torch.device) -> None:
    """Load the images, then train or find, convert, simulate, report."""
    seconds: dict[str, float] = {}
    report(experiment(args, device, seconds), args.out, args.T, args.weight_bits, vars(args), seconds)


def _checked(args: argparse.Namespace) -> tuple[Schedule, Selection, Augmentation]:
    """What the options say, defaults filled in; refuse at once what would fail later.

    Raises:
        ConfigError: an option out of its range, or a network that this machine cannot hold. DataError: no such file.
    """
    drawn = args.data in (None, "shapes")
    for name, defaults in NETWORK.items():
        if getattr(args, name) is None:
            setattr(args, name, defaults[drawn])
    for name in ("eval_batch", "limit_train", "limit_test"):
        command.check_range(f"--{name.replace('_', '-')}", getattr(args, name), MOST)
    command.check_range("--workers", args.workers, 1_024, least=0)
    if not 0.0 < args.smallest <= 1.0:
        raise ConfigError(f"--smallest must lie in (0, 1]; got {args.smallest!r}")
    NetworkConfig(1, args.size, args.width, args.stride)
    check_fits(lambda: Detector(1, args.width, args.stride), "choose a smaller --width")
    if args.weights is not None and not args.weights.is_file():
        raise DataError(f"cannot read {args.weights}: there is no such file")
    usual = SHAPES if drawn else PAPER
    given = {name: value for name, value in vars(args).items() if name in SETTINGS}
    levels = dataclasses.replace(usual, seed=args.seed, epochs=usual.epochs if args.epochs is None else args.epochs)
    levels = dataclasses.replace(levels, **given)
    first = RELU_EPOCHS["shapes" if drawn else "paper"] if args.relu_epochs is None else args.relu_epochs
    relu = None
    if first:
        relu = dataclasses.replace(levels, epochs=first)
        levels = dataclasses.replace(levels, lr=FINE_TUNING * levels.learning_rate)
    augmentation = Augmentation(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Augmentation)})
    schedule = Schedule(args.q, relu, levels, weights=args.weights)
    return schedule, Selection(args.score, args.overlap), augmentation


detect = Command(
    "detect objects on images in spikes, and draw them",
    "Runs images through a converted detector and draws what it finds after 1, 2, 4, ... steps and once it is silent.",
    detection_recipes.detect.options,
    detection_recipes.detect.run,
)


if __name__ == "__main__":
    command.run(options(), main)
