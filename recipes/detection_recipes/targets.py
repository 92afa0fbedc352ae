"""Which cell is to find which object, and how far off the readouts are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from detection_recipes.boxes import areas, generalised_iou
from detection_recipes.detections import decoded_boxes
from detection_recipes.network import Readouts

BOX_WEIGHT = 5.0
"""Of the loss of the boxes beside those of objectness and classes."""


@dataclass(frozen=True)
class Objects:
    """The objects on a batch of images.

    Attributes:
        image: int64 `[M]`, on which image of the batch each is.
        labels: int64 `[M]`.
        boxes: float32 `[M, 4]` in pixels, within the image.
    """

    image: Tensor
    labels: Tensor
    boxes: Tensor

    def to(self, device: torch.device) -> Objects:
        """They, on a device."""
        return Objects(self.image.to(device), self.labels.to(device), self.boxes.to(device))


def matched(objects: Objects, stride: int, high: int, wide: int) -> tuple[Tensor, Tensor]:
    """The cells that find an object: `[K]`, a position in the flat `[B, H, W]`; and which object each finds.

    An object is found by the cell that its centre lies in. Where several centres lie in one, it finds the smallest object.

    >>> boxes = torch.tensor([[0.0, 0.0, 30.0, 30.0], [10.0, 10.0, 18.0, 18.0], [0.0, 0.0, 4.0, 4.0]])
    >>> matched(Objects(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]), boxes), stride=8, high=4, wide=4)
    (tensor([ 5, 16]), tensor([1, 2]))
    """
    order = torch.argsort(areas(objects.boxes), descending=True, stable=True)
    centres = (objects.boxes[order, :2] + objects.boxes[order, 2:]) / 2 / stride
    column, row = centres[:, 0].long().clamp(0, wide - 1), centres[:, 1].long().clamp(0, high - 1)
    cell = (objects.image[order] * high + row) * wide + column
    cells, number = torch.unique(cell, return_inverse=True)
    # The last object of each cell; found by the largest place, because writing twice to one place has no order.
    place = torch.arange(len(order), device=cell.device)
    last = torch.zeros(len(cells), dtype=torch.int64, device=cell.device).scatter_reduce(0, number, place, "amax")
    return cells, order[last]


def loss_and_right(readouts: Readouts, objects: Objects, stride: int) -> tuple[Tensor, Tensor]:
    """The loss of a batch in float32, and on how many of its images every object is found.

    The loss is the binary cross-entropy of all cells' objectness, and for the cells that find an object the cross-entropy
    of its class and five times what its box lacks of a GIoU of 1; all per object.
    """
    objectness, classes, boxes = (readout.float() for readout in readouts)
    count, _, high, wide = objectness.shape
    cells, which = matched(objects, stride, high, wide)
    wanted = torch.zeros(count * high * wide, device=objectness.device)
    wanted[cells] = 1.0
    logits = objectness.flatten()
    number = max(1, len(cells))
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / number
    scores = classes.movedim(1, -1).flatten(0, 2)[cells]
    found = decoded_boxes(boxes, stride).movedim(1, -1).flatten(0, 2)[cells]
    labels = objects.labels[which]
    loss = loss + F.cross_entropy(scores, labels, reduction="sum") / number
    loss = loss + BOX_WEIGHT * (1.0 - generalised_iou(found, objects.boxes[which])).sum() / number
    wrong = torch.zeros(count, device=logits.device)
    missed = (scores.argmax(1) != labels) | (logits[cells] <= 0)
    wrong.index_add_(0, cells // (high * wide), missed.float())
    return loss, (wrong == 0).sum()
