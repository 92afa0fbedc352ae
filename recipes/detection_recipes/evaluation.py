"""What a detector is scored by: mean average precision, and the detections that differ from the quantised ANN's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from casc_core.reporting.predictions import Measure
from casc_lab.evaluation.accuracy import Batch
from casc_lab.evaluation.metric import Outputs, Score
from detection_recipes.annotations import AnnotatedImage
from detection_recipes.detections import Detected, Selection, detections
from detection_recipes.metrics import PAIR, SAME, SHOWN, Differing, differing, precision
from detection_recipes.network import MEASURES, Readouts
from detection_recipes.views import Size, letterbox

FIGURES = {"at_50": "mAP@0.5 (%)", "at_50_11": "mAP@0.5, 11 points (%)", "at_50_95": "mAP@0.5:0.95 (%)"}
"""What tables call the means of a `Precision`."""


class ComparedImage(NamedTuple):
    """What is found on the image of this number, and how that differs from what the reference finds."""

    number: int
    found: Detected
    differing: Differing


@dataclass(frozen=True)
class DetectionMetric:
    """Mean average precision on some images.

    Args:
        images: with their objects; a batch's index says which it holds.
        classes: their names.
        size: width and height of what the network sees.
        stride: of the network.
        selection: which detections are kept.
        figures: fields of `Precision` that are shown, that which stands for all first.
    """

    images: Sequence[AnnotatedImage]
    classes: Sequence[str]
    size: Size
    stride: int
    selection: Selection
    figures: Sequence[str] = ("at_50", "at_50_95")

    key = "precision"
    differing = "detections that differ"
    notes = (
        f"a detection differs if there is none of its class that overlaps it by {PAIR:g}, or if an edge of that is more "
        f"than {SAME:g} pixel off; those of a score of {SHOWN:g} or more are compared",
    )
    every_step, labelled = False, False
    measures: ClassVar[Mapping[str, Measure]] = MEASURES

    @property
    def names(self) -> list[str]:
        """What tables call the figures."""
        return [FIGURES[name] for name in self.figures]

    def read(self, outputs: Outputs, batch: Batch) -> list[Detected]:
        """What is found on each image of a batch, in its pixels."""
        found = detections(Readouts(**outputs), self.stride, self.selection)
        numbers = batch.index.tolist()
        return [
            on_image(each, self.images[number].size, self.size) for each, number in zip(found, numbers, strict=True)
        ]

    def compared(self, answers: list[Detected], reference: list[Detected], batch: Batch) -> list[ComparedImage]:
        """Each image with what is found on it, and how that differs."""
        numbers = batch.index.tolist()
        return [
            ComparedImage(number, found, differing(found, expected))
            for number, found, expected in zip(numbers, answers, reference, strict=True)
        ]

    def score(self, parts: Sequence[list[ComparedImage]]) -> Score:
        """The precision on all images."""
        images = sorted((image for part in parts for image in part), key=lambda image: image.number)
        found = [image.found for image in images]
        value = precision(found, self.images, len(self.classes))
        total = sum((image.differing for image in images), Differing())
        return Score(
            figures=tuple(getattr(value, name) for name in self.figures),
            mismatches=sum(bool(image.differing) for image in images),
            differing=dataclasses.asdict(total),
            value=dataclasses.asdict(value),
            answers=found,
        )

    def said(self, score: Score, samples: int) -> str:
        """As '3 detections on 2 of 72 images differ'."""
        return f"{score.differences:,} detections on {score.mismatches:,} of {samples:,} images differ"


def on_image(found: Detected, image: Size, seen: Size) -> Detected:
    """Detections on what the network sees as detections on the image, cut at its border."""
    boxes = letterbox(image, seen).back(found.boxes)
    limit = torch.tensor([*image, *image], dtype=torch.float32)
    return Detected(torch.minimum(boxes.clamp_min(0.0), limit), found.scores, found.labels)
