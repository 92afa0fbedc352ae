"""Object detection: train a YOLO with CQReLU, convert it, and compare four ways to simulate it (Table 4).

    python recipes/yolo.py --data voc --q 8 --T 32
    python recipes/yolo.py --data FOLDER --size 256x192 --stride 8 --width 0.125 --optimizer adamw --q 8 --T 64
    python recipes/yolo.py --data voc --sweep none,16,8,4 --T 64
    torchrun --nproc-per-node 8 recipes/yolo.py --data coco --paper --weights vgg16_bn.pth --q 8 --T 64 --workers 8

It trains the paper's detector with plain ReLU and then with levels (or finds the one trained before with the same options
on the same images), converts it, runs the whole test set in spikes with the four methods, and writes results.json,
table.md, precision.png, detections.png and the spiking network to the output folder. Without data, it draws shapes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import casc_lab  # noqa: F401  # before torch: it says how torch's threads wait

if __package__:  # found by its name; a script's own folder is searched anyhow
    sys.path.insert(0, str(Path(__file__).parent))

import detection_recipes.detect
import torch
from detection_recipes import hub_data, paper, shapes
from detection_recipes.annotations import Detections
from detection_recipes.batches import TrainingBatches, calibration_batches, evaluation_batches
from detection_recipes.data import load_detections
from detection_recipes.detections import Selection
from detection_recipes.evaluation import DetectionMetric
from detection_recipes.experiment import KIND, NetworkConfig, Schedule, train_or_find
from detection_recipes.network import MEASURES, STRIDES, Detector
from detection_recipes.picture import detections_picture
from detection_recipes.training import TrainingConfig
from detection_recipes.views import Augmentation
from image_recipes.command import SETTINGS, add_run_options, add_training_options, given_settings
from image_recipes.experiment import CalibrationConfig

from casc_core.errors import ConfigError, DataError
from casc_lab import command
from casc_lab.cli import Command
from casc_lab.distributed import is_main, say
from casc_lab.evaluation.report import Experiment, phase
from casc_lab.evaluation.sweep import report_levels
from casc_lab.training.checks import MOST, check_fits
from casc_lab.training.store import describe

DATA = "voc, coco, a folder or tar laid out as one of them, a hub data set, or shapes; unset: shapes, which are drawn"
FINE_TUNING = 0.25
"""Learning rate with levels, where training with plain ReLU goes before, as a share of the rate of that."""
CALIBRATION_IMAGES = 64
FIGURES_OF = {"voc": ("at_50", "at_50_11", "at_50_95"), "coco": ("at_50_95", "at_50")}
"""What is shown of the precision on published data, what the paper has first."""


@dataclass(frozen=True)
class Preset:
    """Defaults of a command line.

    Attributes:
        size: width and height of what the network sees. stride, width: as `Detector` takes them.
        relu_epochs: with plain ReLU, first.
        levels: training with levels; with plain ReLU, but for the epochs and the learning rate, it is the same.
    """

    size: tuple[int, int]
    stride: int
    width: float
    relu_epochs: int
    levels: TrainingConfig


USUAL = Preset((640, 640), 32, 1.0, 100, TrainingConfig(epochs=100))
PAPER = Preset((640, 640), 32, 1.0, 0, TrainingConfig(epochs=200))
SHAPES = Preset(
    (shapes.SIZE, shapes.SIZE),
    8,
    0.125,
    15,
    TrainingConfig(epochs=8, batch_size=16, optimizer="adamw", lr=4e-3, averaging=0.98),
)


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
    command.add_options(parser, q=8, T=32, data=DATA, out="results/yolo", seed=0, plain=True)
    add = parser.add_argument
    about = f"the paper's training: levels from step 1 on, {PAPER.levels.epochs} epochs, stride 32, 320 to 640 pixels"
    add("--paper", action="store_true", help=f"{about}; other options go before it")
    add("--sweep", type=command.level_list, help="levels to compare, such as none,16,8,4")
    about = "of what the network sees, one side or WIDTHxHEIGHT, into which images are letterboxed"
    add("--size", type=image_size, help=f"{about} (default: 640; {shapes.SIZE} for shapes)")
    add("--stride", type=int, choices=STRIDES, help=f"pixels from one cell to the next {_usually('stride')}")
    add("--width", type=float, help=f"scales all channels {_usually('width')}")
    add("--weights", type=Path, help="file of a trained backbone, torchvision's vgg16_bn: .safetensors or .pth")
    about = "passes over the images with plain ReLU, first; 0: none"
    add("--relu-epochs", type=int, help=f"{about} {_usually('relu_epochs', '; 0 with --paper')}")
    others = {
        name: f"{value} for shapes"
        for name in SETTINGS
        if (value := getattr(SHAPES.levels, name, None)) != getattr(USUAL.levels, name, None)
    }
    others["epochs"] += f"; {PAPER.levels.epochs} with --paper"
    others["lr"] += f"; with levels, where plain ReLU goes before, {FINE_TUNING} of it"
    add_training_options(parser, USUAL.levels, **others)
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
    usual = CalibrationConfig()
    add("--calibrate-q", type=int, default=usual.q, help="levels of a network trained with plain ReLU (--q none)")
    about = "of what a channel is with plain ReLU; it becomes its threshold"
    add("--percentile", type=float, default=usual.percentile, help=about)
    about = "what follows left and top in a box of a hub data set: width and height, or right and bottom"
    add("--hub-boxes", choices=hub_data.BOXES, default=hub_data.BOXES[0], help=about)
    add("--workers", type=int, default=0, help="processes, for each GPU, that read training images")
    add_run_options(parser, eval_batch=8)
    return parser


def _usually(name: str, more: str = "") -> str:
    return f"(default: {getattr(USUAL, name)}; {getattr(SHAPES, name)} for shapes{more})"


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
    check(args)
    return one(args, device, load(args, seconds), args.q, args.out, seconds, find_only)


def main(args: argparse.Namespace, device: torch.device) -> None:
    """Load the images, then train or find, convert, simulate, report: for one number of levels, or each of `--sweep`."""
    seconds: dict[str, float] = {}
    check(args)
    data = load(args, seconds)

    report_levels(
        args,
        lambda q, folder, spent: one(args, device, data, q, folder, spent),
        seconds,
        data.source,
        lambda: training_images(args, data).digest,
        paper.levels(data.name),
        "YOLO",
    )


def load(args: argparse.Namespace, seconds: dict[str, float]) -> Detections:
    """The images."""
    with phase("data", seconds):
        data = load_detections(
            args.data, train_split=args.train_split, test_split=args.test_split, hub_boxes=args.hub_boxes,
            limit_train=args.limit_train, limit_test=args.limit_test,
        )  # fmt: skip
        say(data.source, *data.notices)
    return data


def training_images(args: argparse.Namespace, data: Detections) -> TrainingBatches:
    """What the detector learns."""
    return TrainingBatches(data.train, args.size, augmentation(args), args.smallest, args.stride, args.workers)


def one(
    args: argparse.Namespace,
    device: torch.device,
    data: Detections,
    q: int | None,
    folder: Path,
    seconds: dict[str, float],
    find_only: bool = False,
) -> Experiment:
    """The detector trained with this many levels, and its test set; with `find_only`, one that had been trained before."""
    progress = is_main() and not args.quiet
    title = f"{data.source.split(':')[0]}, YOLO, q={'none' if q is None else q}"
    say(title)
    network = NetworkConfig(len(data.classes), args.size, args.width, args.stride)
    calibration = calibration_batches(data.train, args.size, CALIBRATION_IMAGES, args.eval_batch, device)
    with phase("train", seconds):
        trained = train_or_find(
            training_images(args, data), calibration, folder, network, schedule(args, q), {"classes": list(data.classes)},
            device=device, relu_folder=args.out, retrain=args.retrain, find_only=find_only, progress=progress,
            precision=args.precision, sync_batch_norm=args.sync_bn,
        )  # fmt: skip
    say(describe(trained.found, trained.training, KIND))
    converted, facts = trained.model, dict(trained.training)
    if q is None:
        how = CalibrationConfig(args.calibrate_q, args.percentile)
        converted = how.calibrated(trained.model, calibration, facts, seconds, MEASURES)
    metric = DetectionMetric(
        data.test, data.classes, args.size, args.stride, Selection(args.score, args.overlap),
        FIGURES_OF.get(data.name, ("at_50", "at_50_95")),
    )  # fmt: skip
    return Experiment(
        network=converted,
        adapter="cnn",
        batches=evaluation_batches(
            data.test, args.size, batch_size=args.eval_batch, device=device, progress=progress and not find_only
        ),
        title=title,
        data=data.source,
        train_examples=len(data.train),
        test_examples=len(data.test),
        q=q,
        classifier=trained.folder,
        training=facts,
        trained=trained.model,
        published=paper.over_time(data.name),
        calibration=lambda: ((some,) for some in calibration()),
        recipe="yolo",
        metric=metric,
        pictures=lambda evaluation: {"detections.png": detections_picture(evaluation, metric)},
        facts={"classes": list(data.classes)},
    )


def check(args: argparse.Namespace) -> None:
    """Fill in defaults, and refuse at once what would fail later.

    Raises:
        ConfigError: an option out of its range, or a network that this machine cannot hold. DataError: no such file.
    """
    for name in ("size", "stride", "width", "relu_epochs"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(preset(args), name))
    for name in ("eval_batch", "limit_train", "limit_test"):
        command.check_range(f"--{name.replace('_', '-')}", getattr(args, name), MOST)
    command.check_range("--workers", args.workers, 1_024, least=0)
    command.check_range("--relu-epochs", args.relu_epochs, MOST, least=0)
    if not 0.0 < args.smallest <= 1.0:
        raise ConfigError(f"--smallest must lie in (0, 1]; got {args.smallest!r}")
    for q in [args.q] if args.sweep is None else args.sweep:
        command.check_levels("--q" if args.sweep is None else "--sweep", q)
        schedule(args, q)
    augmentation(args)
    Selection(args.score, args.overlap)
    CalibrationConfig(args.calibrate_q, args.percentile)
    NetworkConfig(1, args.size, args.width, args.stride)
    check_fits(lambda: Detector(1, args.width, args.stride), "choose a smaller --width")
    if args.weights is not None and not args.weights.is_file():
        raise DataError(f"cannot read {args.weights}: there is no such file")


def preset(args: argparse.Namespace) -> Preset:
    """The defaults of what the command line leaves open."""
    if args.paper:
        return PAPER
    return SHAPES if args.data in (None, "shapes") else USUAL


def schedule(args: argparse.Namespace, q: int | None) -> Schedule:
    """How the detector with this many levels is trained.

    Raises:
        ConfigError: an option out of its range.
    """
    levels = dataclasses.replace(preset(args).levels, seed=args.seed, **given_settings(args))
    relu = None
    if args.relu_epochs:
        relu = dataclasses.replace(levels, epochs=args.relu_epochs)
        levels = dataclasses.replace(levels, lr=FINE_TUNING * levels.learning_rate)
    return Schedule(q, relu, levels, args.percentile, args.weights)


def augmentation(args: argparse.Namespace) -> Augmentation:
    """What is done to a training image.

    Raises:
        ConfigError: an option out of its range.
    """
    return Augmentation(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Augmentation)})


detect = Command(
    "detect objects on images in spikes, and draw them",
    "Runs images through a converted detector and draws what it finds after 1, 2, 4, ... steps and once it is silent.",
    detection_recipes.detect.options,
    detection_recipes.detect.run,
)


if __name__ == "__main__":
    command.run(options(), main)
