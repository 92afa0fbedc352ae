"""ImageNet, convolutional: fine-tune a network with CQReLU, convert it, and compare four ways to simulate it (Tables 3, 5).

    python recipes/imagenet_cnn.py --model resnet34 --weights resnet34.pth --q 8 --T 64 --data FOLDER
    torchrun --nproc-per-node 8 recipes/imagenet_cnn.py --model regnet_x_8gf --q 16 --T 64 --data FOLDER --batch-size 1024
    torchrun --nnodes 2 --node-rank 0 --master-addr HOST --nproc-per-node 8 recipes/imagenet_cnn.py ...

The folder is laid out as ImageNet is (train/CLASS/IMAGE, val/CLASS/IMAGE), whatever its classes; the files are read while
they are used. The weights are torchvision's for the model, as .pth or .safetensors; without them it trains from scratch.
The output folder must be one that all machines see.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import casc_lab  # noqa: F401  # before torch: it says how torch's threads wait

if __package__:  # found by its name; a script's own folder is searched anyhow
    sys.path.insert(0, str(Path(__file__).parent))

import image_recipes.command
import torch
from image_recipes.imagenet import Views, load_imagenet
from image_recipes.streams import StreamedImages, evaluation_batches, some_batches
from image_recipes.training import TrainingConfig

from casc_core.errors import ConfigError
from casc_lab import command
from casc_lab.distributed import is_main, say
from casc_lab.evaluation.report import phase

DATA = "folder with train/CLASS/IMAGE and val/CLASS/IMAGE, or 'hub': imagenet-1k, streamed; unset: docs/experiments.md"
PAPER = TrainingConfig(optimizer="sgd")
FINE_TUNING = TrainingConfig(optimizer="sgd", epochs=30, lr=0.01)
CALIBRATION_IMAGES = 500


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = command.parser(__doc__.split("\n\n")[0])
    command.add_options(parser, q=8, T=64, data=DATA, out="results/imagenet_cnn", seed=0, plain=True)
    tuning = {name: f"{getattr(FINE_TUNING, name)} with --weights" for name in ("epochs", "lr")}
    image_recipes.command.add_options(parser, PAPER, **tuning)
    parser.set_defaults(model="resnet34")
    views = Views()
    add = parser.add_argument
    add("--size", type=int, default=views.size, help="height and width of what the network sees")
    add("--resize", type=int, default=views.resize, help="shorter side of the image before its middle is cut out")
    add("--stem", choices=("imagenet", "small"), default="imagenet", help="small: for images of 64x64 or less")
    add("--workers", type=int, default=4, help="processes, for each GPU, that read images")
    return parser


def load(
    args: argparse.Namespace, device: torch.device, seconds: dict[str, float]
) -> tuple[image_recipes.command.Images, TrainingConfig]:
    """The images, and the defaults of training on them."""
    if args.workers < 0:
        raise ConfigError(f"--workers must be at least 0; got {args.workers}")
    with phase("data", seconds):
        views = Views(args.size, args.resize, args.seed)
        data = load_imagenet(args.data, views, limit_train=args.limit_train, limit_test=args.limit_test)
        say(data.source)
    images = image_recipes.command.Images(
        name="imagenet" if len(data.classes) == 1_000 else "",
        train=StreamedImages(data.train, data.source, args.workers),
        test=evaluation_batches(
            data.test, data.mean, data.std, batch_size=args.eval_batch, workers=args.workers, device=device,
            progress=is_main() and not args.quiet,
        ),
        calibration=lambda: some_batches(
            data.train, data.mean, data.std, images=CALIBRATION_IMAGES, batch_size=args.eval_batch, device=device
        ),
        test_examples=len(data.test), classes=data.classes, mean=data.mean, std=data.std, size=args.size,
        stem=args.stem, source=data.source, recipe="imagenet_cnn",
    )  # fmt: skip
    return images, FINE_TUNING if args.weights else PAPER


experiment = partial(image_recipes.command.loaded_experiment, load)
main = partial(image_recipes.command.main, load)


if __name__ == "__main__":
    command.run(options(), main)
