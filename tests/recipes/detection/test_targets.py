"""Which cell finds which object, and the loss: against its definition, cell by cell."""

from __future__ import annotations

import math

import pytest
import torch
from detection_recipes.boxes import generalised_iou
from detection_recipes.detections import decoded_boxes
from detection_recipes.network import Readouts
from detection_recipes.targets import BOX_WEIGHT, Objects, loss_and_right, matched
from hypothesis import given, settings
from hypothesis import strategies as st

STRIDE, HIGH, WIDE = 8, 3, 4


def objects(rows: list[tuple[int, int, float, float, float, float]]) -> Objects:
    """From image, class, left, top, width and height."""
    boxes = torch.tensor([[left, top, left + w, top + h] for _, _, left, top, w, h in rows]).reshape(-1, 4)
    return Objects(
        torch.tensor([row[0] for row in rows], dtype=torch.int64),
        torch.tensor([row[1] for row in rows], dtype=torch.int64),
        boxes.float(),
    )


ROW = st.tuples(
    st.integers(0, 1), st.integers(0, 2), st.integers(0, 28), st.integers(0, 20), st.integers(1, 9), st.integers(1, 9)
)


@settings(max_examples=40)
@given(st.lists(ROW, max_size=8, unique_by=lambda row: row[4] * row[5]), st.integers(0, 99))
def test_the_loss_is_as_defined(rows: list[tuple[int, int, float, float, float, float]], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    readouts = Readouts(*(torch.randn(2, channels, HIGH, WIDE, generator=draw) for channels in (1, 3, 4)))
    found = objects(rows)
    finds: dict[tuple[int, int, int], int] = {}
    for number in sorted(range(len(rows)), key=lambda each: -rows[each][4] * rows[each][5]):
        image, _, left, top, w, h = rows[number]
        cell = min(HIGH - 1, int((top + h / 2) / STRIDE)), min(WIDE - 1, int((left + w / 2) / STRIDE))
        finds[(image, *cell)] = number
    cells, which = matched(found, STRIDE, HIGH, WIDE)
    expected = {(image * HIGH + y) * WIDE + x: number for (image, y, x), number in finds.items()}
    assert dict(zip(cells.tolist(), which.tolist(), strict=True)) == expected

    boxes, total, right = decoded_boxes(readouts.boxes, STRIDE), 0.0, [True, True]
    for image in range(2):
        for y in range(HIGH):
            for x in range(WIDE):
                logit = float(readouts.objectness[image, 0, y, x])
                number = finds.get((image, y, x), -1)
                total += math.log1p(math.exp(logit)) - (logit if number >= 0 else 0.0)
                if number < 0:
                    continue
                scores = readouts.classes[image, :, y, x]
                total -= float(scores.log_softmax(0)[rows[number][1]])
                total += BOX_WEIGHT * (1 - float(generalised_iou(boxes[image, :, y, x], found.boxes[number])))
                right[image] &= logit > 0 and int(scores.argmax()) == rows[number][1]
    loss, count = loss_and_right(readouts, found, STRIDE)
    assert float(loss) == pytest.approx(total / max(1, len(finds)), rel=1e-4)
    assert int(count) == sum(right)


def test_gradients_reach_every_readout() -> None:
    readouts = Readouts(*(torch.zeros(1, channels, HIGH, WIDE, requires_grad=True) for channels in (1, 3, 4)))
    loss, _ = loss_and_right(readouts, objects([(0, 1, 3.0, 3.0, 7.0, 6.0)]), STRIDE)
    loss.backward()
    for readout in readouts:
        assert readout.grad is not None
        assert readout.grad.abs().sum() > 0
