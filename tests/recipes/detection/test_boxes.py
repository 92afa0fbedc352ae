"""Overlap of boxes against pixels that are counted, and non-maximum suppression against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detection_recipes.boxes import areas, generalised_iou, iou, suppressed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

EDGE = st.integers(0, 12)
BOX = st.tuples(EDGE, EDGE, st.integers(1, 12), st.integers(1, 12)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


def covered(box: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.zeros((24, 24), dtype=bool)
    pixels[box[1] : box[3], box[0] : box[2]] = True
    return pixels


@settings(max_examples=40)
@given(BOX, BOX)
def test_overlap_is_that_of_pixels(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> None:
    first, second = (torch.tensor(box, dtype=torch.float32) for box in (one, other))
    both, either = (covered(one) & covered(other)).sum(), (covered(one) | covered(other)).sum()
    around = covered((min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3]))).sum()
    assert float(areas(first)) == covered(one).sum()
    assert float(iou(first, second)) == pytest.approx(both / either)
    assert float(generalised_iou(first, second)) == pytest.approx(both / either - (around - either) / around, abs=1e-6)


def test_boxes_without_area_overlap_nothing() -> None:
    point = torch.tensor([3.0, 3.0, 3.0, 3.0])
    assert float(iou(point, point)) == 0.0
    assert float(iou(point, torch.tensor([0.0, 0.0, 6.0, 6.0]))) == 0.0


def plainly_suppressed(boxes: Tensor, scores: list[float], labels: list[int], threshold: float) -> list[int]:
    kept: list[int] = []
    for number in sorted(range(len(scores)), key=lambda each: (-scores[each], each)):
        rivals = [other for other in kept if labels[other] == labels[number]]
        if all(float(iou(boxes[other], boxes[number])) <= threshold for other in rivals):
            kept.append(number)
    return kept


@settings(max_examples=40)
@given(st.lists(st.tuples(BOX, st.sampled_from([0.1, 0.5, 0.5, 0.9]), st.integers(0, 1)), max_size=12))
def test_suppression_is_as_defined(found: list[tuple[tuple[int, int, int, int], float, int]]) -> None:
    boxes = torch.tensor([box for box, _, _ in found], dtype=torch.float32).reshape(-1, 4)
    scores, labels = [score for _, score, _ in found], [label for _, _, label in found]
    kept = suppressed(boxes, torch.tensor(scores), torch.tensor(labels, dtype=torch.int64), 0.4142)
    assert kept.tolist() == plainly_suppressed(boxes, scores, labels, 0.4142)
