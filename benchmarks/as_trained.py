"""Is the spiking network the network that was trained? Weights of a plain ReLU network, calibrated, over a whole test set.

    python benchmarks/as_trained.py --weights FILE --data FOLDER [--q 8,16,32] [--out FOLDER]

For each number of levels: calibrated on training images, converted, and verified on the test images, neuron by neuron.
What is counted: levels that differ between spikes and reference, between the reference and the network evaluated in
float64, and between its evaluations in float64 and float32. Writes as_trained.json and as_trained.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import machine
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from image_recipes.augment import normalise
from image_recipes.imagenet import IMAGENET_MEAN, IMAGENET_STD
from image_recipes.images import ImageData, load_images
from image_recipes.models import MODELS, build
from image_recipes.weights import load_weights

import casc_core
from casc_core.evidence.equivalence import EquivalenceReport, combine_reports
from casc_core.reporting.tables import markdown_table
from casc_core.storage.files import require_writable, write_whole
from casc_core.storage.json_files import write_json
from casc_lab.progress import Progress


@dataclass(frozen=True)
class Case:
    """One number of levels.

    Attributes:
        neurons: compared, over all images. spikes: counts that are not the reference's level.
        faults: levels of the reference that are neither the network's in float64 nor a tie; ties.
        logits, predictions: images whose logits, or class, differ from the network's in float64.
        float32_neurons, float32_logits, float32_predictions: that float32 itself changes.
        trained, calibrated, spiking: accuracy in percent, of the plain network, the quantised one, and in spikes.
        steps: until the last image is silent.
        memory: of the process so far, in GiB.
    """

    q: int
    images: int
    neurons: int
    exact: bool
    spikes: int
    faults: int
    ties: int
    logits: int
    predictions: int
    float32_neurons: int
    float32_logits: int
    float32_predictions: int
    trained: float
    calibrated: float
    spiking: float
    steps: int
    seconds: float
    memory: float


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="file of weights that were trained with ReLU")
    add("--model", choices=tuple(MODELS), default="resnet20a", help="their network (default: %(default)s)")
    add("--data", required=True, help="folder of the data set")
    add("--q", default="8,16,32", help="numbers of levels (default: %(default)s)")
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
    add("--out", type=Path, default=Path("results/as_trained"), help="output folder (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Verify one number of levels after another, writing after each."""
    args = options()
    require_writable(args.out)
    data = load_images(args.data, limit_test=args.limit)
    if args.normalise == "imagenet":
        data = dataclasses.replace(data, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    model = build(args.model, len(data.classes)).eval()
    load_weights(model, args.weights)
    cases: list[Case] = []
    for q in map(int, args.q.split(",")):
        cases.append(verified(model, data, q, args))
        facts = {"machine": machine(), "data": data.source, "model": args.model, "weight_bits": args.weight_bits}
        write_json(args.out / "as_trained.json", facts | {"cases": [dataclasses.asdict(case) for case in cases]})
        write_whole(args.out / "as_trained.md", markdown(cases))
    print(markdown(cases))
    if not all(case.exact for case in cases):
        sys.exit("NOT EXACT")


def verified(model: nn.Module, data: ImageData, q: int, args: argparse.Namespace) -> Case:
    """Calibrate, convert and verify, batch by batch."""
    started = time.perf_counter()
    some = data.train.balanced(args.calibrate).images
    parts = [normalise(part, data.mean, data.std) for part in some.split(args.batch)]
    calibrated = casc_core.calibrate(model, parts, q=q).model
    numerics = casc_core.AsTrained() if args.weight_bits is None else casc_core.Exact(args.weight_bits)
    snn = casc_core.convert(calibrated, numerics=numerics)
    reports: list[EquivalenceReport] = []
    right = dict.fromkeys((model, calibrated, snn), 0)
    with torch.no_grad(), Progress(-(-len(data.test) // args.batch), f"q={q}") as progress:
        for images, labels in batches(data, args.batch):
            reports.append(casc_core.verify(snn, images))
            exact = sum(report.exact for report in reports)
            progress.advance(f"{exact} of them exact")
            for network in right:
                answer = snn.reference(images) if network is snn else network(images)
                right[network] += int((answer.argmax(1) == labels).sum())
    report = combine_reports(reports)
    print(f"\n{report}", file=sys.stderr, flush=True)
    assert report.lowering is not None
    assert report.grid is not None
    assert report.float32 is not None
    ours, float32 = report.grid, report.float32
    return Case(
        q, len(data.test), sum(layer.neurons for layer in report.layers.values()), report.exact,
        sum(layer.mismatches for layer in report.layers.values()),
        sum(layer.wrong for layer in report.lowering.layers.values()), report.lowering.ties, ours.logits,
        ours.predictions or 0, sum(float32.layers.values()), float32.logits, float32.predictions or 0,
        *(round(100.0 * count / len(data.test), 2) for count in right.values()), int(report.silent_at.max()),
        round(time.perf_counter() - started, 1),
        round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    )  # fmt: skip


def batches(data: ImageData, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The test images, normalised, and their labels."""
    for images, labels in zip(data.test.images.split(size), data.test.labels.split(size), strict=True):
        yield normalise(images, data.mean, data.std), labels


def markdown(cases: list[Case]) -> str:
    """The cases as a table."""
    rows = {
        "levels q": [str(case.q) for case in cases],
        "images": [f"{case.images:,}" for case in cases],
        "neurons, over all images": [f"{case.neurons:,}" for case in cases],
        "spike counts that are not the reference's": [f"{case.spikes:,}" for case in cases],
        "levels that are not the network's in float64, and no tie": [f"{case.faults:,}" for case in cases],
        "ties": [f"{case.ties:,}" for case in cases],
        "images whose logits differ from float64's": [f"{case.logits:,}" for case in cases],
        "predictions that differ from float64's": [f"{case.predictions:,}" for case in cases],
        "float32 against float64: levels": [f"{case.float32_neurons:,}" for case in cases],
        "float32 against float64: logits of images": [f"{case.float32_logits:,}" for case in cases],
        "float32 against float64: predictions": [f"{case.float32_predictions:,}" for case in cases],
        "accuracy as trained, with ReLU (%)": [f"{case.trained:.2f}" for case in cases],
        "accuracy calibrated (%)": [f"{case.calibrated:.2f}" for case in cases],
        "accuracy in spikes (%)": [f"{case.spiking:.2f}" for case in cases],
        "steps until the last image is silent": [str(case.steps) for case in cases],
    }
    header, *body = [[name, *values] for name, values in rows.items()]
    return markdown_table([header, *body]) + "\n"


if __name__ == "__main__":
    try:
        main()
    except casc_core.CascError as error:
        sys.exit(f"error: {error}")
