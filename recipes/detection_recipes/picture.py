"""How detections appear on test images, step by step, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from casc_lab.evaluation.methods import SILENT, Evaluation
from detection_recipes.annotations import AnnotatedImage
from detection_recipes.detections import Detected
from detection_recipes.drawing import grid, png, with_boxes
from detection_recipes.evaluation import DetectionMetric

_IMAGES, _COLUMNS, _WIDTH = 4, 6, 240


def detections_picture(evaluation: Evaluation, metric: DetectionMetric) -> bytes:
    """A few test images: after some steps, once silent, the ANN's detections, and what is annotated; as a PNG."""
    scores = {key: score for key, score in evaluation.ours.scores.items() if score is not None}
    steps = [key for key in scores if key != SILENT][-_COLUMNS:]
    columns = {f"T={key}": scores[key] for key in steps} | {SILENT: evaluation.end, "ANN": evaluation.ann}
    rows = []
    for number in _with_objects(metric.images):
        image = metric.images[number].open()
        boxes, labels = metric.images[number].certain
        found = {name: score.answers[number] for name, score in columns.items()}
        found["annotation"] = Detected(boxes, boxes.new_ones(len(boxes)), labels)
        rows.append([(name, _drawn(image, each, metric)) for name, each in found.items()])
    return png(grid(rows))


def _drawn(image: Image.Image, found: Detected, metric: DetectionMetric) -> Image.Image:
    return with_boxes(image, found, metric.classes, _WIDTH)


def _with_objects(images: Sequence[AnnotatedImage]) -> list[int]:
    """Numbers of the first images that hold objects."""
    return [number for number, image in enumerate(images) if len(image.certain[0])][:_IMAGES]
