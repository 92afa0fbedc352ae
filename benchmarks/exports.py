"""How large an export of a network is, how wide its integers are, and how long it takes.

    python benchmarks/exports.py --weights FILE --data FOLDER [--q 8] [--recipe FOLDER [--texts FOLDER]]

A ResNet-20 from weights of a plain ReLU network, calibrated; and the text classifier that a recipe has left in its output
folder. Each is exported as trained, in 8 bits, and in 8 bits with biases and thresholds on the grid of the weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from image_recipes.augment import normalise
from image_recipes.imagenet import IMAGENET_MEAN, IMAGENET_STD
from image_recipes.images import load_images
from image_recipes.models import build
from image_recipes.weights import load_weights

import casc_core
from casc_core import AsTrained, Exact
from casc_core.reporting.tables import markdown_table
from casc_lab.compare.recipe_folder import recipe_of
from casc_lab.distributed import ALL

HEADER = (
    "network", "arithmetic", "seconds", "constants, MiB", "traces, MiB", "weights, bits", "current, bits proven",
    "observed", "potential, bits proven", "observed",
)  # fmt: skip
ARITHMETICS = (AsTrained(), Exact(8), Exact(8, bias_on_weight_grid=True))
CALIBRATION_IMAGES = 256


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--weights", type=Path, help="of a ResNet-20, safetensors")
    add("--data", help="folder with CIFAR-10")
    add("--q", type=int, default=8)
    add("--recipe", type=Path, help="output folder of a text recipe")
    add("--texts", help="where the recipe's data is now, if it has been moved")
    add("--samples", type=int, default=4)
    return parser.parse_args()


def networks(args: argparse.Namespace) -> Iterator[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """Each network, and samples."""
    if args.weights is not None:
        data = load_images(args.data, limit_test=args.samples)
        model = build("resnet20a", len(data.classes)).eval()
        load_weights(model, args.weights)
        some = normalise(data.train.balanced(CALIBRATION_IMAGES).images, IMAGENET_MEAN, IMAGENET_STD)
        calibrated = casc_core.calibrate(model, [some], q=args.q).model
        yield f"ResNet-20, q={args.q}", calibrated, (normalise(data.test.images, IMAGENET_MEAN, IMAGENET_STD),)
    if args.recipe is not None:
        experiment, results = recipe_of(args.recipe, args.texts)
        batch = next(iter(experiment.batches(ALL)))
        inputs = tuple(each[: args.samples] for each in batch.inputs)
        yield f"{results['recipe']}, q={results['options']['q']}", experiment.network, inputs


def row(name: str, model: nn.Module, inputs: tuple[Tensor, ...], numerics: AsTrained | Exact) -> list[str]:
    """The figures of one export."""
    snn = casc_core.convert(model, numerics=numerics)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "export"
        started = time.perf_counter()
        snn.export(folder, inputs)
        seconds = time.perf_counter() - started
        written: dict[str, Any] = json.loads((folder / "integers.json").read_text())
        sizes = [(folder / f"{file}.safetensors").stat().st_size / 2**20 for file in ("integers", "traces")]
    weights = [each["bits"] for name, each in written["tensors"].items() if name.endswith(".weight")]
    layers = [layer["bits"] for layer in written["layers"].values()]
    widths = [
        max(layer[kind][what] for layer in layers) for what in ("sum", "potential") for kind in ("proven", "observed")
    ]
    return [
        name,
        str(numerics),
        f"{seconds:.1f}",
        *(f"{size:.1f}" for size in sizes),
        str(max(weights)),
        *map(str, widths),
    ]


def main() -> None:
    args = options()
    torch.set_num_threads(1)
    rows = [row(*each, numerics) for each in networks(args) for numerics in ARITHMETICS]
    print(markdown_table([HEADER, *rows]))


if __name__ == "__main__":
    try:
        main()
    except casc_core.CascError as error:
        sys.exit(f"error: {error}")
