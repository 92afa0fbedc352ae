"""CIFAR, convolutional: train a CQReLU network, convert it, and compare four ways to simulate it (Tables 1 and 2).

    python recipes/cifar_cnn.py --model vgg16 --q 8 --T 32 --data FOLDER
    python recipes/cifar_cnn.py --model vgg16 --sweep none,64,32,16,8 --data FOLDER
    python recipes/cifar_cnn.py --model resnet20a --weights FILE --normalise imagenet --fine-tune --q 8 --data FOLDER
    torchrun --nproc-per-node 4 recipes/cifar_cnn.py --model vgg16 --q 8 --T 32 --data FOLDER

It trains the network (or finds the one trained before with the same options on the same images), converts it, runs the
whole test set in spikes with the four methods, and writes results.json, table.md, accuracy.png and the spiking network to
the output folder. Without data, it takes the digits that come with scikit-learn.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path

import casc_lab  # noqa: F401  # before torch: it says how torch's threads wait

if __package__:  # found by its name; a script's own folder is searched anyhow
    sys.path.insert(0, str(Path(__file__).parent))

import image_recipes.command
import torch
from image_recipes.augment import Augmentation, mean_colour, normalise
from image_recipes.imagenet import IMAGENET_MEAN, IMAGENET_STD
from image_recipes.images import ImageData, load_images
from image_recipes.memory import MemoryImages, evaluation_batches
from image_recipes.training import TrainingConfig

from casc_lab import command
from casc_lab.distributed import is_main, say
from casc_lab.evaluation.report import phase

DATA = "folder with CIFAR as published or with images by class, hub data set, or 'digits'; unset: docs/experiments.md"
AUGMENTATIONS = ("auto", "none", "crop", "basic", "paper")
PAPER = TrainingConfig()
DIGITS = TrainingConfig(epochs=20, batch_size=64)
CALIBRATION_IMAGES = 1_000


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = command.parser(__doc__.split("\n\n")[0])
    command.add_options(parser, q=8, T=32, data=DATA, out="results/cifar_cnn", seed=0, plain=True)
    digits = {name: f"{getattr(DIGITS, name)} for the digits" for name in ("epochs", "batch_size")}
    image_recipes.command.add_options(parser, PAPER, **digits)
    add = parser.add_argument
    add("--dataset", choices=("cifar10", "cifar100"), default="cifar10", help="where the folder or the hub has both")
    add("--size", type=int, help="height and width to bring the images to")
    about = (
        "crop; basic: crop and flip; paper: AutoAugment, crop, flip and Cutout; auto: paper, but crop for the digits, and "
        "basic with --fine-tune"
    )
    add("--normalise", choices=("data", "imagenet"), default="data", help="by the mean and deviation of which images")
    add("--augment", choices=AUGMENTATIONS, default="auto", help=about)
    return parser


def augmentation(name: str, data: ImageData) -> Augmentation | None:
    """The augmentation of this name, its sizes those for the data."""
    digits = "digits" in data.source
    if name == "auto":
        name = "crop" if digits else "paper"
    if name == "none":
        return None
    fill, padding = mean_colour(data.mean), data.train.images.shape[-1] // 8
    if name == "crop":
        return Augmentation(crop_padding=max(1, padding // 2), flip=False, fill=fill)
    if name == "basic":
        return Augmentation(crop_padding=padding, flip=True, fill=fill)
    # Cutout covers half the side where there are few classes, a quarter where there are many.
    side = data.train.images.shape[-1] // (2 if len(data.classes) <= 10 else 4)
    return Augmentation(crop_padding=padding, flip=True, cutout=side, auto_augment=True, fill=fill)


def load(
    args: argparse.Namespace, device: torch.device, seconds: dict[str, float]
) -> tuple[image_recipes.command.Images, TrainingConfig]:
    """The images, and the defaults of training on them."""
    with phase("data", seconds):
        data = load_images(
            args.data, args.dataset, size=args.size, limit_train=args.limit_train, limit_test=args.limit_test
        )
        say(data.notice or "", data.source)
    if args.normalise == "imagenet":  # as many weight files expect, those for CIFAR too
        data = dataclasses.replace(data, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    digits, size = "digits" in data.source, data.train.images.shape[-1]
    augment = "basic" if args.fine_tune and args.augment == "auto" and not digits else args.augment
    some = data.train.balanced(CALIBRATION_IMAGES).images
    images = image_recipes.command.Images(
        name=args.dataset if "CIFAR" in data.source or "cifar" in data.source else "",
        train=MemoryImages(data.train, augmentation(augment, data)),
        test=evaluation_batches(
            data.test, data.mean, data.std, batch_size=args.eval_batch, device=device,
            progress=is_main() and not args.quiet,
        ),
        calibration=lambda: (normalise(part.to(device), data.mean, data.std) for part in some.split(args.eval_batch)),
        test_examples=len(data.test), classes=data.classes, mean=data.mean, std=data.std, size=size, stem="small",
        source=data.source, recipe="cifar_cnn",
    )  # fmt: skip
    return images, DIGITS if digits else PAPER


experiment = partial(image_recipes.command.loaded_experiment, load)
main = partial(image_recipes.command.main, load)


if __name__ == "__main__":
    command.run(options(), main)
