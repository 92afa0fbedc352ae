"""How good detections are: mean average precision as PASCAL VOC and COCO count it, and which detections differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casc_core.errors import ConfigError, InputError
from detection_recipes.annotations import AnnotatedImage
from detection_recipes.boxes import iou
from detection_recipes.detections import Detected

OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The overlaps of COCO's mean: 0.5, 0.55, ... 0.95."""
_ANY_AREA, _DIFFICULT_AREA = [[0.0, 1e10]], 1e12
SHOWN = 0.3
"""The least score of a detection that is shown, and compared with others."""
PAIR, SAME = 0.5, 1.0
"""Two detections are of one object from this overlap on, and the same if no edge is farther off, in pixels."""


@dataclass(frozen=True)
class Precision:
    """Mean average precision over the classes of which there are objects, in percent.

    Attributes:
        at_50: from an overlap (IoU) of 0.5 on, the area under precision over recall: PASCAL VOC from 2010 on.
        at_50_11: the mean of the precision at the recalls 0, 0.1, ... 1: PASCAL VOC 2007.
        at_50_95: the mean over overlaps from 0.5 to 0.95, and at 101 recalls: COCO.
        by_class: as `at_50`; None for a class without objects.
    """

    at_50: float
    at_50_11: float
    at_50_95: float
    by_class: tuple[float | None, ...]


def precision(found: Sequence[Detected], images: Sequence[AnnotatedImage], classes: int) -> Precision:
    """What the detections on some images are worth, by `faster-coco-eval`.

    Each detection, the largest score first, is matched with the object of its class that it overlaps most, among those
    not matched yet, as COCO does. A difficult object need not be found, and finding it is no mistake; in a crowd nothing
    is one.

    Args:
        found: the detections on each image, in its pixels.
        images: the images.
        classes: how many there are.

    Raises:
        ConfigError: `faster-coco-eval` is not installed. InputError: not as many results as images, or no object.
    """
    if len(found) != len(images):
        raise InputError(f"expected detections for each of {len(images)} images; got {len(found)}")
    objects = torch.zeros(classes, dtype=torch.int64)
    for image in images:
        objects += image.certain[1].bincount(minlength=classes)
    if not objects.any():
        raise InputError("there is no object on any image, so no precision")
    evaluation = _evaluation(found, images, classes)
    coco = _precisions(evaluation, OVERLAPS, np.linspace(0.0, 1.0, 101))
    eleven = _precisions(evaluation, (0.5,), np.linspace(0.0, 1.0, 11))
    # Recall rises by one object after another: the mean of the precision at each is the area under the curve.
    areas = {
        count: _precisions(evaluation, (0.5,), np.arange(1, count + 1) / count)
        for count in set(objects[objects > 0].tolist())
    }
    there = [number for number in range(classes) if objects[number]]
    by_class = {number: 100.0 * float(areas[int(objects[number])][0, :, number].mean()) for number in there}
    return Precision(
        at_50=float(np.mean(list(by_class.values()))),
        at_50_11=100.0 * float(eleven[0][:, there].mean()),
        at_50_95=100.0 * float(coco[:, :, there].mean()),
        by_class=tuple(by_class.get(number) for number in range(classes)),
    )


def _evaluation(found: Sequence[Detected], images: Sequence[AnnotatedImage], classes: int) -> Any:
    """The library's evaluation of these detections, before any precision has been asked for."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ConfigError(
            "mean average precision needs faster-coco-eval: pip install 'casc[detection]' (or pip install faster-coco-eval)"
        ) from error
    described = {
        "images": [
            {"id": number, "width": image.size[0], "height": image.size[1]} for number, image in enumerate(images)
        ],
        "categories": [{"id": number, "name": str(number)} for number in range(classes)],
    }
    truth = COCO({**described, "annotations": _numbered(_objects(images))})
    answers = COCO({**described, "annotations": _numbered(_answers(found))})
    evaluation = COCOeval_faster(truth, answers, "bbox", print_function=_silent)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = _ANY_AREA, ["all"]
    evaluation.params.maxDets = [max(1, *(len(each) for each in found))]
    return evaluation


def _precisions(evaluation: Any, overlaps: Sequence[float], recalls: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`[overlaps, recalls, classes]`: the largest precision at these recalls or larger ones."""
    evaluation.params.iouThrs, evaluation.params.recThrs = np.array(overlaps), recalls
    evaluation.evaluate()
    evaluation.accumulate()
    result: np.ndarray[Any, Any] = np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]
    return result


def _silent(*words: object) -> None:
    """Where the library would speak."""


def _objects(images: Sequence[AnnotatedImage]) -> list[dict[str, Any]]:
    rows = []
    for number, image in enumerate(images):
        for box, label, difficult, crowd in zip(
            image.boxes.tolist(), image.labels.tolist(), image.difficult.tolist(), image.crowd.tolist(), strict=True
        ):
            # An object of an area that is not asked for is one that need not be found.
            area = _DIFFICULT_AREA if difficult else 1.0
            rows.append({**_row(number, box, label), "area": area, "iscrowd": int(crowd)})
    return rows


def _answers(found: Sequence[Detected]) -> list[dict[str, Any]]:
    return [
        {**_row(number, box, label), "area": 1.0, "score": score}
        for number, each in enumerate(found)
        for box, label, score in zip(each.boxes.tolist(), each.labels.tolist(), each.scores.tolist(), strict=True)
    ]


def _row(image: int, box: Sequence[float], label: int) -> dict[str, Any]:
    left, top, right, bottom = box
    return {"image_id": image, "category_id": label, "bbox": [left, top, right - left, bottom - top]}


def _numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": number, **row} for number, row in enumerate(rows, 1)]


@dataclass(frozen=True)
class Differing:
    """How the detections on an image differ from others, of those that are shown.

    Attributes:
        missing: others without one of the same object here.
        added: those here without one of the same object there.
        moved: of the same object, an edge more than a pixel off.
    """

    missing: int = 0
    added: int = 0
    moved: int = 0

    def __bool__(self) -> bool:
        return bool(self.missing or self.added or self.moved)

    @property
    def total(self) -> int:
        """All of them."""
        return self.missing + self.added + self.moved

    def __add__(self, other: Differing) -> Differing:
        return Differing(self.missing + other.missing, self.added + other.added, self.moved + other.moved)


def differing(found: Detected, expected: Detected) -> Differing:
    """How detections on an image differ from those expected.

    Those expected, the largest score first, are each matched with what overlaps them most, of their class and not matched
    yet, by half at least.

    >>> one = Detected(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([0.9]), torch.tensor([0]))
    >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 12.0], [40.0, 0.0, 50.0, 9.0]])
    >>> other = Detected(boxes, torch.tensor([0.9, 0.4]), torch.tensor([0, 0]))
    >>> differing(one, other)
    Differing(missing=1, added=0, moved=1)
    """
    found, expected = found.above(SHOWN), expected.above(SHOWN)
    overlap = iou(expected.boxes[:, None], found.boxes[None])
    overlap[expected.labels[:, None] != found.labels[None]] = 0.0
    taken = torch.zeros(len(found), dtype=torch.bool)
    missing = moved = 0
    for number in range(len(expected)):
        candidates = torch.where(taken, 0.0, overlap[number])
        best = int(candidates.argmax()) if len(candidates) else -1
        if best < 0 or candidates[best] < PAIR:
            missing += 1
            continue
        taken[best] = True
        moved += _is_off(found.boxes[best], expected.boxes[number])
    return Differing(missing, int((~taken).sum()), moved)


def _is_off(box: Tensor, other: Tensor) -> bool:
    return bool((box - other).abs().max() > SAME)
