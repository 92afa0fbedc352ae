"""From readouts to detections: boxes, classes and scores, and the best of those that overlap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.errors import ConfigError
from detection_recipes.boxes import suppressed
from detection_recipes.network import Readouts

BASE = 4.0
"""Sides of a box whose two last readouts are 0, in strides."""
_LARGEST_EXPONENT = 6.0
_CANDIDATES = 1_000


@dataclass(frozen=True)
class Detected:
    """What is found on an image, the largest score first.

    Attributes:
        boxes: float32 `[N, 4]`: left, top, right and bottom edge in pixels.
        scores: float32 `[N]` in 0..1.
        labels: int64 `[N]`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Detected:
        """Those with at least this score."""
        kept = self.scores >= score
        return Detected(self.boxes[kept], self.scores[kept], self.labels[kept])


@dataclass(frozen=True)
class Selection:
    """Which detections are kept.

    Args:
        score: those of a larger one.
        overlap: of two of one class that overlap by more, the one with the larger score.
        most: so many for each image, those with the largest scores.

    Raises:
        ConfigError: a value out of its range.
    """

    score: float = 0.01
    overlap: float = 0.6
    most: int = 100

    def __post_init__(self) -> None:
        for name in ("score", "overlap"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must lie in 0..1; got {getattr(self, name)!r}")
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 1:
            raise ConfigError(f"most must be an integer of at least 1; got {self.most!r}")


def decoded_boxes(readouts: Tensor, stride: int) -> Tensor:
    """Boxes `[B, 4, H, W]` in pixels from the readouts of that shape.

    The first two say by their sigmoid where in its cell the centre lies; the exponential of the others, times four strides,
    is width and height.

    >>> decoded_boxes(torch.zeros(1, 4, 1, 2), stride=8)[0, :, 0].T
    tensor([[-12., -12.,  20.,  20.],
            [ -4., -12.,  28.,  20.]])
    """
    high, wide = readouts.shape[-2:]
    rows = torch.arange(high, device=readouts.device, dtype=readouts.dtype)[:, None].expand(high, wide)
    columns = torch.arange(wide, device=readouts.device, dtype=readouts.dtype)[None].expand(high, wide)
    centres = (torch.stack([columns, rows]) + readouts[:, :2].sigmoid()) * stride
    halves = readouts[:, 2:].clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT).exp() * (BASE * stride / 2)
    return torch.cat([centres - halves, centres + halves], 1)


def detections(readouts: Readouts, stride: int, selection: Selection) -> Iterator[Detected]:
    """What is found on each image of a batch, on the CPU, in pixels of what the network sees.

    A score is the probability of an object times that of its class. Readouts that are the same bit for bit give the same
    detections, whatever the batch.
    """
    objectness, classes, boxes = (readout.detach().cpu().float() for readout in readouts)
    certain, labels = classes.softmax(1).max(1)
    scores = (objectness[:, 0].sigmoid() * certain).flatten(1)
    edges = decoded_boxes(boxes, stride).flatten(2).transpose(1, 2)
    for score, label, box in zip(scores, labels.flatten(1), edges, strict=True):
        kept = torch.nonzero(score > selection.score)[:, 0]
        best = torch.argsort(score[kept], descending=True, stable=True)[:_CANDIDATES]
        kept = kept[best]
        kept = kept[suppressed(box[kept], score[kept], label[kept], selection.overlap)[: selection.most]]
        yield Detected(box[kept], score[kept], label[kept])
