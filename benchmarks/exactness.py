"""Is every model exact? Each network of the recipes, at the size of CIFAR with several q, and at 224x224.

    python benchmarks/exactness.py [--models vgg16,resnet20] [--q 4,8,16] [--data FOLDER] [--out FOLDER]

Weights are random; the statistics of batch normalisation come from a forward pass over images. `verify` compares every
spike count of every neuron and every logit with the quantised network. Writes exactness.json and exactness.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import machine
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from image_recipes.augment import normalise
from image_recipes.images import load_images
from image_recipes.models import MODELS, build

import casc_core
from casc_core.reporting.tables import markdown_table
from casc_core.storage.files import require_writable, write_whole
from casc_core.storage.json_files import write_json

SMALL, LARGE = 32, 224


@dataclass(frozen=True)
class Case:
    """One network, verified.

    Attributes:
        neurons: of one image. steps: until the last image is silent. moved: predictions moved by snapping.
        spikes_per_neuron: of both signs, over a whole run.
    """

    model: str
    size: int
    q: int
    images: int
    layers: int
    neurons: int
    exact: bool
    differing: int
    steps: int
    spikes_per_neuron: float
    moved: int
    seconds: float


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", default=",".join(MODELS), help="which, with commas between (default: all)")
    add("--q", default="4,8,16", help="levels at the size of CIFAR (default: %(default)s)")
    add("--large-q", default="8", help=f"levels at {LARGE}x{LARGE}; empty: none (default: %(default)s)")
    add("--data", default="digits", help="images: a folder, or 'digits' (default)")
    add(
        "--images", type=int, default=4, help=f"images verified at the size of CIFAR, a quarter at {LARGE} (default: 4)"
    )
    add("--out", type=Path, default=Path("results/exactness"), help="output folder (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Verify network by network, writing after each."""
    args = options()
    require_writable(args.out)
    data = load_images(args.data, limit_train=256)
    pixels = normalise(data.train.images[:64], data.mean, data.std)
    cases: list[Case] = []
    sizes = [(SMALL, int(q), args.images) for q in args.q.split(",") if q]
    sizes += [(LARGE, int(q), max(1, args.images // 4)) for q in args.large_q.split(",") if q]
    for name in args.models.split(","):
        for size, q, count in sizes:
            print(f"{name}, {size}x{size}, q={q} ...", file=sys.stderr, flush=True)
            cases.append(verified(name, size, q, F.interpolate(pixels, (size, size), mode="nearest"), count))
            facts = {"machine": machine(), "data": data.source, "cases": [dataclasses.asdict(case) for case in cases]}
            write_json(args.out / "exactness.json", facts)
            write_whole(args.out / "exactness.md", markdown(cases))
    print(markdown(cases))
    if not all(case.exact for case in cases):
        sys.exit("NOT EXACT")


def verified(name: str, size: int, q: int, pixels: Tensor, count: int) -> Case:
    """Build, prepare, convert and verify a network on the first `count` images."""
    torch.manual_seed(0)
    model = build(name, 10, stem="small" if size == SMALL else "imagenet")
    ann = with_statistics(casc_core.prepare(model, adapter="cnn", q=q), pixels[: max(8, count)])
    snn = casc_core.convert(ann, adapter="cnn")
    started = time.perf_counter()
    report = casc_core.verify(snn, pixels[:count])
    seconds = time.perf_counter() - started
    layers = snn.simulate(pixels[:count]).spikes.values()
    spikes = sum(int(layer.positive.sum() + layer.negative.sum()) for layer in layers)
    neurons = sum(layer.neurons for layer in layers)
    return Case(
        name, size, q, count, len(layers), neurons // count, report.exact,
        sum(layer.mismatches for layer in report.layers.values()), int(report.silent_at.max()), spikes / neurons,
        report.ann_predictions_moved or 0, seconds,
    )  # fmt: skip


def with_statistics(model: nn.Module, pixels: Tensor) -> nn.Module:
    """The model, its batch normalisation having seen these images; scales and offsets as training might leave them."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average over all passes
            module.reset_running_stats()
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.0, generator=generator)
                module.bias.normal_(0.0, 0.2, generator=generator)
    model.train()
    with torch.no_grad():
        model(pixels)
    return model.eval()


def markdown(cases: list[Case]) -> str:
    """The cases as a table."""
    header = [
        "model",
        "image",
        "q",
        "exact",
        "neurons",
        "differing",
        "steps to silence",
        "spikes per neuron",
        "seconds",
    ]
    body = [
        [
            case.model, f"{case.size}x{case.size}", str(case.q), "yes" if case.exact else "NO", f"{case.neurons:,}",
            f"{case.differing:,}", str(case.steps), f"{case.spikes_per_neuron:.1f}", f"{case.seconds:.1f}",
        ]
        for case in cases
    ]  # fmt: skip
    return markdown_table([header, *body]) + "\n"


if __name__ == "__main__":
    try:
        main()
    except casc_core.CascError as error:
        sys.exit(f"error: {error}")
