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
import json
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
from casc_core.evidence.equivalence import EquivalenceReport
from casc_core.numerics import of_bits
from casc_core.reporting.tables import markdown_table
from casc_core.storage.files import require_writable, write_whole
from casc_core.storage.json_files import write_json
from casc_lab.progress import Progress

NAME = "as_trained.json"


@dataclass(frozen=True)
class Case:
    """One number of levels, on the images so far.

    Attributes:
        neurons: compared, over all images. spikes: counts that are not the reference's level.
        faults: levels of the reference, and logits, that are neither the network's in float64 nor a tie; ties.
        logits, predictions: images whose logits, or class, differ from the network's in float64.
        float32_neurons, float32_logits, float32_predictions: that float32 itself changes.
        trained, calibrated, spiking: images that are classified right, by the plain network, the quantised one, in spikes.
        steps: until the last image is silent.
        memory: of the process so far, in GiB.
    """

    q: int
    images: int = 0
    neurons: int = 0
    spikes: int = 0
    faults: int = 0
    ties: int = 0
    logits: int = 0
    predictions: int = 0
    float32_neurons: int = 0
    float32_logits: int = 0
    float32_predictions: int = 0
    trained: int = 0
    calibrated: int = 0
    spiking: int = 0
    inexact: int = 0
    seconds: float = 0.0
    steps: int = 0
    memory: float = 0.0

    def plus(self, other: Case) -> Case:
        """With those of further images."""
        largest = {name: max(getattr(self, name), getattr(other, name)) for name in ("q", "steps", "memory")}
        names = [field.name for field in dataclasses.fields(self) if field.name not in largest]
        return Case(**largest, **{name: getattr(self, name) + getattr(other, name) for name in names})


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
    """Verify one number of levels after another, writing after each batch; the same command again goes on from there."""
    args = options()
    require_writable(args.out)
    data = load_images(args.data, limit_test=args.limit)
    if args.normalise == "imagenet":
        data = dataclasses.replace(data, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    model = build(args.model, len(data.classes)).eval()
    load_weights(model, args.weights)
    left_out = ("q", "out")
    run = {name: str(value) for name, value in vars(args).items() if name not in left_out} | {"data": data.source}
    cases = found(args.out / NAME, run)
    for q in map(int, args.q.split(",")):
        for case in verified(model, data, cases.get(q, Case(q)), args):
            cases[q] = case
            told = [dataclasses.asdict(each) for each in cases.values()]
            write_json(args.out / NAME, {"machine": machine(), "run": run, "cases": told})
            write_whole(args.out / "as_trained.md", markdown(list(cases.values())))
    print(markdown(list(cases.values())))
    if any(case.inexact for case in cases.values()):
        sys.exit("NOT EXACT")


def found(file: Path, run: dict[str, str]) -> dict[int, Case]:
    """What an earlier run with the same options has left, by levels."""
    if not file.is_file():
        return {}
    left = json.loads(file.read_text(encoding="utf-8"))
    return {case["q"]: Case(**case) for case in left["cases"]} if left["run"] == run else {}


def verified(model: nn.Module, data: ImageData, case: Case, args: argparse.Namespace) -> Iterator[Case]:
    """Calibrate, convert and verify, batch by batch; gives what there is after each."""
    if case.images >= len(data.test):
        return
    some = data.train.balanced(args.calibrate).images
    parts = [normalise(part, data.mean, data.std) for part in some.split(args.batch)]
    calibrated = casc_core.calibrate(model, parts, q=case.q).model
    snn = casc_core.convert(calibrated, numerics=of_bits(args.weight_bits))
    done, total = case.images // args.batch, -(-len(data.test) // args.batch)
    with torch.no_grad(), Progress(total, f"q={case.q}", done=done) as progress:
        for images, labels in batches(data, args.batch, case.images):
            started = time.perf_counter()
            report = casc_core.verify(snn, images)
            if not report.exact:
                print(f"\n{report}", file=sys.stderr, flush=True)
            answers = (model(images), calibrated(images), snn.reference(images))
            right = [int((answer.argmax(1) == labels).sum()) for answer in answers]
            case = case.plus(of(report, case.q, right, time.perf_counter() - started))
            progress.advance(f"{case.inexact} not exact")
            yield case


def of(report: EquivalenceReport, q: int, right: list[int], seconds: float) -> Case:
    """The figures of a report."""
    lowering, ours, float32 = report.lowering, report.grid, report.float32
    assert lowering is not None
    assert ours is not None
    assert float32 is not None
    return Case(
        q, len(report.silent_at), sum(layer.neurons for layer in report.layers.values()),
        sum(layer.mismatches for layer in report.layers.values()), sum(layer.wrong for layer in lowering.layers.values()),
        lowering.ties, ours.logits, ours.predictions or 0, sum(float32.layers.values()), float32.logits,
        float32.predictions or 0, *right, int(not report.exact), round(seconds, 1), int(report.silent_at.max()),
        round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    )  # fmt: skip


def batches(data: ImageData, size: int, done: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The test images behind those that are done, normalised, and their labels."""
    left = data.test.images[done:].split(size), data.test.labels[done:].split(size)
    for images, labels in zip(*left, strict=True):
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
        "accuracy as trained, with ReLU (%)": [_percent(case.trained, case) for case in cases],
        "accuracy calibrated (%)": [_percent(case.calibrated, case) for case in cases],
        "accuracy in spikes (%)": [_percent(case.spiking, case) for case in cases],
        "steps until the last image is silent": [str(case.steps) for case in cases],
    }
    header, *body = [[name, *values] for name, values in rows.items()]
    return markdown_table([header, *body]) + "\n"


def _percent(right: int, case: Case) -> str:
    return f"{100.0 * right / case.images:.2f}"


if __name__ == "__main__":
    try:
        main()
    except casc_core.CascError as error:
        sys.exit(f"error: {error}")
