"""Boxes `[N, 4]`: left, top, right and bottom edge. How they overlap, and which of those that overlap stay."""

from __future__ import annotations

import torch
from torch import Tensor


def areas(boxes: Tensor) -> Tensor:
    """`[..., 4]` to `[...]`; 0 where an edge lies beyond the one opposite.

    >>> areas(torch.tensor([[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 0.0, 5.0]]))
    tensor([6., 0.])
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def _intersection(one: Tensor, other: Tensor) -> Tensor:
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    return areas(torch.cat([low, high], -1))


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes `[..., 4]` that are broadcast; 0 where both have no area.

    >>> iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]]))
    tensor([0.3333, 0.0000])
    """
    common = _intersection(one, other)
    union = areas(one) + areas(other) - common
    return torch.where(union > 0, common / union.clamp_min(torch.finfo(union.dtype).tiny), 0.0)


def generalised_iou(one: Tensor, other: Tensor) -> Tensor:
    """GIoU of boxes that have an area (Rezatofighi et al. 2019): IoU, less the share of the smallest box around both that
    neither covers.

    >>> generalised_iou(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([3.0, 0.0, 4.0, 1.0]))
    tensor(-0.5000)
    """
    common = _intersection(one, other)
    union = areas(one) + areas(other) - common
    around = torch.cat([torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:])], -1)
    return common / union - (areas(around) - union) / areas(around)


def suppressed(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression: positions of the boxes that stay, the one with the largest score first.

    From the largest score down, each box that stays removes those of its own class that overlap it by more than
    `threshold`. Of equal scores the one that stands first goes first.

    >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [0.0, 0.0, 2.0, 2.0]])
    >>> suppressed(boxes, torch.tensor([0.5, 0.9, 0.8]), torch.tensor([0, 0, 1]), 0.6)
    tensor([1, 2])
    """
    order = torch.argsort(scores, descending=True, stable=True)
    boxes, labels = boxes[order], labels[order]
    overlap = (iou(boxes[:, None], boxes[None]) > threshold) & (labels[:, None] == labels[None])
    later = overlap.triu(1).cpu().numpy()
    stays = ~torch.zeros(len(order), dtype=torch.bool).numpy()
    for number in range(len(order)):
        if stays[number]:
            stays &= ~later[number]
    return order[torch.from_numpy(stays).to(order.device)]
