"""Is the spiking network the network that was trained? Weights of a plain ReLU network, calibrated, over a whole test set.

    python benchmarks/as_trained.py --weights FILE --data FOLDER [--q 8,16,32] [--out FOLDER]

For each number of levels: calibrated on training images, converted, and verified on the test images, neuron by neuron.
What is counted: levels that differ between spikes and reference, between the reference and the network evaluated in
float64, and between its evaluations in float64 and float32. Writes as_trained.json and as_trained.md
after each batch; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from verified import Case, by_levels, case_of, found, parser, run, write

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from image_recipes.augment import normalise
from image_recipes.imagenet import IMAGENET_MEAN, IMAGENET_STD
from image_recipes.images import ImageData, load_images
from image_recipes.models import MODELS, build
from image_recipes.weights import load_weights

import casc_core
from casc_core.numerics import of_bits
from casc_core.storage.files import require_writable
from casc_lab.progress import Progress

NAME = "as_trained"


def options() -> argparse.Namespace:
    """The command line."""
    line = parser(__doc__, "8,16,32", NAME)
    add = line.add_argument
    add("--weights", type=Path, required=True, help="file of weights that were trained with ReLU")
    add("--model", choices=tuple(MODELS), default="resnet20a", help="their network (default: %(default)s)")
    add("--data", required=True, help="folder of the data set")
    add(
        "--normalise",
        choices=("imagenet", "data"),
        default="imagenet",
        help="mean and deviation (default: %(default)s)",
    )
    add("--weight-bits", type=int, help="a coarser grid, in the place of the weights as trained")
    add("--calibrate", type=int, default=1000, help="training images to calibrate on (default: %(default)s)")
    add("--batch", type=int, default=100, help="images verified at a time (default: %(default)s)")
    add("--limit", type=int, help="verify so many test images only")
    return line.parse_args()


def main() -> bool:
    """Verify one number of levels after another, writing after each batch; the same command again goes on from there."""
    args = options()
    require_writable(args.out)
    data = load_images(args.data, limit_test=args.limit)
    if args.normalise == "imagenet":
        data = dataclasses.replace(data, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    model = build(args.model, len(data.classes)).eval()
    load_weights(model, args.weights)
    left_out = ("q", "out")
    chosen = {name: str(value) for name, value in vars(args).items() if name not in left_out} | {"data": data.source}
    cases = found(args.out / f"{NAME}.json", chosen)
    for q in map(int, args.q.split(",")):
        for case in verified(model, data, cases.get(q, Case(q)), args):
            cases[q] = case
            told = [dataclasses.asdict(each) for each in cases.values()]
            write(args.out, NAME, {"run": chosen, "cases": told}, markdown(list(cases.values())))
    print(markdown(list(cases.values())))
    return not any(case.inexact for case in cases.values())


def verified(model: nn.Module, data: ImageData, case: Case, args: argparse.Namespace) -> Iterator[Case]:
    """Calibrate, convert and verify, batch by batch; gives what there is after each."""
    if case.samples >= len(data.test):
        return
    some = data.train.balanced(args.calibrate).images
    parts = [normalise(part, data.mean, data.std) for part in some.split(args.batch)]
    calibrated = casc_core.calibrate(model, parts, q=case.q).model
    snn = casc_core.convert(calibrated, numerics=of_bits(args.weight_bits))
    done, total = case.samples // args.batch, -(-len(data.test) // args.batch)
    with torch.no_grad(), Progress(total, f"q={case.q}", done=done) as progress:
        for images, labels in batches(data, args.batch, case.samples):
            started = time.perf_counter()
            report = casc_core.verify(snn, images)
            if not report.exact:
                print(f"\n{report}", file=sys.stderr, flush=True)
            answers = (model(images), calibrated(images), snn.reference(images))
            right = [int((answer.argmax(1) == labels).sum()) for answer in answers]
            case = case.plus(case_of(report, case.q, right, time.perf_counter() - started))
            progress.advance(f"{case.inexact} not exact")
            yield case


def batches(data: ImageData, size: int, done: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The test images behind those that are done, normalised, and their labels."""
    left = data.test.images[done:].split(size), data.test.labels[done:].split(size)
    for images, labels in zip(*left, strict=True):
        yield normalise(images, data.mean, data.std), labels


def markdown(cases: list[Case]) -> str:
    """The cases as a table."""
    right = {name: [case.percent(name) for case in cases] for name in ("trained", "calibrated", "spiking")}
    rows = {
        "images": [f"{case.samples:,}" for case in cases],
        "neurons, over all images": [f"{case.neurons:,}" for case in cases],
        "spike counts that are not the reference's": [f"{case.spikes:,}" for case in cases],
        "levels that are not the network's in float64, and no tie": [f"{case.faults:,}" for case in cases],
        "ties": [f"{case.ties:,}" for case in cases],
        "images whose logits differ from float64's": [f"{case.logits:,}" for case in cases],
        "predictions that differ from float64's": [f"{case.predictions:,}" for case in cases],
        "float32 against float64: levels": [f"{case.float32_neurons:,}" for case in cases],
        "float32 against float64: logits of images": [f"{case.float32_logits:,}" for case in cases],
        "float32 against float64: predictions": [f"{case.float32_predictions:,}" for case in cases],
        "accuracy as trained, with ReLU (%)": [f"{percent:.2f}" for percent in right["trained"]],
        "accuracy calibrated (%)": [f"{percent:.2f}" for percent in right["calibrated"]],
        "accuracy in spikes (%)": [f"{percent:.2f}" for percent in right["spiking"]],
        "steps until the last image is silent": [str(case.steps) for case in cases],
    }
    return by_levels([case.q for case in cases], rows)


if __name__ == "__main__":
    run(main)
