"""`casc detect`: images through a converted detector, what it finds after some steps, drawn and written down."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from image_recipes.folders import open_image
from PIL import Image

import casc_core
from casc_core.errors import ConfigError, StorageError
from casc_core.reporting.series import powers_of_two
from casc_core.storage.files import require_writable, write_whole
from casc_core.storage.strict import of, strings
from casc_lab.command import check_steps
from casc_lab.evaluation.results_folder import NETWORK, results_of
from detection_recipes.batches import FILL, standardised
from detection_recipes.detections import Detected, Selection, detections
from detection_recipes.drawing import grid, png, with_boxes
from detection_recipes.evaluation import on_image
from detection_recipes.metrics import SHOWN
from detection_recipes.network import STRIDES, Readouts
from detection_recipes.views import Size, letterboxed

FOLDER = Path("results/yolo")
_WIDTH = 320  # of each picture, where there are several


@dataclass(frozen=True)
class LoadedDetector:
    """A converted detector from a recipe's output folder.

    Attributes:
        snn: in spikes.
        classes: their names.
        size: width and height of what it sees.
        stride: of the network.
        selection: which detections are kept.
    """

    snn: casc_core.SpikingModel
    classes: list[str]
    size: Size
    stride: int
    selection: Selection


@dataclass(frozen=True)
class DetectedImage:
    """What is found on an image.

    Attributes:
        by_step: detections after some steps, in the image's pixels, the last ones at the end.
        silent_at: the last step at which anything spiked; None: the run was cut off before that.
        exact: whether the last readouts are the reference's, bit for bit.
    """

    by_step: dict[int, Detected]
    silent_at: int | None
    exact: bool

    @property
    def found(self) -> Detected:
        """Those at the end."""
        return list(self.by_step.values())[-1]


def load_detector(folder: Path) -> LoadedDetector:
    """The detector that the recipe left in its output folder.

    Raises:
        StorageError: it holds none.
    """
    with results_of(folder, "detection", "; name one with --network") as results:
        options = results["options"]
        wide, high = (of(int, side, "a side") for side in of(list, options["size"], "size"))
        stride = of(int, options["stride"], "stride")
        if stride not in STRIDES or min(wide, high) < stride or wide % stride or high % stride:
            raise ValueError(f"{wide}x{high} pixels are no whole cells of stride {stride}")
        selection = Selection(options["score"], options["overlap"])
        classes = strings(results["classes"], "classes")
    return LoadedDetector(casc_core.load(folder / NETWORK), classes, (wide, high), stride, selection)


def detect(detector: LoadedDetector, image: Image.Image, T: int | None = None) -> DetectedImage:
    """An image through the detector, in spikes.

    Args:
        T: steps; None: until silent.

    Raises:
        StorageError: the network is not the one of these classes.
    """
    inputs = standardised([letterboxed(image, detector.size, FILL)])
    simulation = detector.snn.simulate(inputs, T=T)
    classes = simulation.outputs.classes.shape[2]
    if classes != len(detector.classes):
        raise StorageError(
            f"the network tells {classes} classes apart, and there are names of {len(detector.classes)}: they are of two "
            "trainings; run the recipe again"
        )
    by_step = {
        step: on_image(found, image.size, detector.size)
        for step in powers_of_two(simulation.T)
        for found in detections(_at(simulation.outputs, step), detector.stride, detector.selection)
    }
    cut = T is not None and int(detector.snn.simulate(inputs).silent_at[0]) > T
    return DetectedImage(
        by_step,
        None if cut else int(simulation.silent_at[0]),
        all(map(torch.equal, _at(simulation.outputs, simulation.T), detector.snn.reference(inputs))),
    )


def _at(readouts: Readouts, step: int) -> Readouts:
    """The readouts `[B, ...]` after a step, of those `[T, B, ...]` after each."""
    return Readouts(*(readout[step - 1] for readout in readouts))


def picture(detector: LoadedDetector, image: Image.Image, detected: DetectedImage, score: float) -> Image.Image:
    """The image with what is found after some steps, side by side, three in a row."""
    parts = [
        (f"T={step}: {len(found.above(score))} found", with_boxes(image, found, detector.classes, _WIDTH, score))
        for step, found in detected.by_step.items()
    ]
    return grid([parts[start : start + 3] for start in range(0, len(parts), 3)])


def as_text(name: str, detector: LoadedDetector, detected: DetectedImage, score: float) -> str:
    """What is found on an image, for a terminal."""
    when = "cut off, not yet silent" if detected.silent_at is None else f"silent after step {detected.silent_at}"
    end = "are the quantised ANN's, bit for bit" if detected.exact else "are not yet the quantised ANN's"
    counts = ", ".join(f"T={step}: {len(found.above(score))}" for step, found in detected.by_step.items())
    lines = [f"{name}: {when}; the readouts {end}", f"  objects found: {counts}"]
    lines += [
        f"  {row['class']} {100 * row['score']:.1f}%  {' '.join(f'{edge:.1f}' for edge in row['box'])}"
        for row in _rows(detector.classes, detected.found.above(score))
    ]
    return "\n".join(lines)


def as_json(name: str, detector: LoadedDetector, detected: DetectedImage, score: float) -> dict[str, Any]:
    """What is found on an image, as plain values; boxes are left, top, right and bottom edge in pixels."""
    steps = {str(step): _rows(detector.classes, found.above(score)) for step, found in detected.by_step.items()}
    return {"image": name, "steps": steps, "silent_at": detected.silent_at, "exact": detected.exact}


def _rows(classes: Sequence[str], found: Detected) -> list[dict[str, Any]]:
    return [
        {"class": classes[label], "score": round(score, 6), "box": [round(edge, 2) for edge in box]}
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    ]


def options(line: argparse.ArgumentParser) -> None:
    """Add those of `casc detect`."""
    add = line.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="files of images")
    add("--network", type=Path, default=FOLDER, help="output folder of a detection recipe")
    add("--T", type=int, help="steps to simulate; unset: until silent")
    add("--score", type=float, default=SHOWN, help="least score of what is shown")
    add("--out", type=Path, default=Path("detections"), help="folder for the images with boxes")
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Detect on each image, write its picture, and print what is found."""
    check_steps(args.T)
    if not 0.0 <= args.score <= 1.0:
        raise ConfigError(f"--score must lie in 0..1; got {args.score!r}")
    names = [f"{path.stem}.png" for path in args.images]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"several images would be written to {args.out / twice[0]}; detect on them one by one")
    require_writable(args.out)
    detector = load_detector(args.network)
    told = []
    for path, name in zip(args.images, names, strict=True):
        image = open_image(path)
        detected = detect(detector, image, args.T)
        write_whole(args.out / name, png(picture(detector, image, detected, args.score)))
        if args.json:
            told.append(as_json(str(path), detector, detected, args.score))
        else:
            print(as_text(str(path), detector, detected, args.score))
    print(json.dumps(told) if args.json else f"\nthe images with boxes are in {args.out}")
    return 0
