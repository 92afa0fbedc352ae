"""How an image becomes what the network sees: letterboxed, or for training scaled, shifted, flipped, recoloured, mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from casc_core.errors import ConfigError
from detection_recipes.boxes import areas

_LEAST_SHARE, _LEAST_SIDE = 0.3, 2.0  # of a box that is still to be found

Size = tuple[int, int]
"""Width and height."""
Sample = tuple[Image.Image, Tensor, Tensor]
"""An image, boxes `[N, 4]` and labels `[N]`."""


@dataclass(frozen=True)
class Placement:
    """Where an image lies on a canvas.

    Args:
        scale: of its width and its height.
        offset: of its left upper corner, in pixels of the canvas.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes on the image as boxes on the canvas."""
        return boxes * self._four(self.scale) + self._four(self.offset)

    def back(self, boxes: Tensor) -> Tensor:
        """Boxes on the canvas as boxes on the image.

        >>> box = torch.tensor([[2.0, 4.0, 6.0, 8.0]])
        >>> place = Placement((0.5, 0.5), (3.0, 0.0))
        >>> place.back(place.boxes(box))
        tensor([[2., 4., 6., 8.]])
        """
        return (boxes - self._four(self.offset)) / self._four(self.scale)

    @staticmethod
    def _four(pair: tuple[float, float]) -> Tensor:
        return torch.tensor([*pair, *pair], dtype=torch.float32)

    def draw(self, image: Image.Image, canvas: Image.Image) -> None:
        """Draw what is seen of the image, bilinear with antialiasing."""
        edges, source = [], []
        for axis in (0, 1):
            start, scale, side = self.offset[axis], self.scale[axis], image.size[axis]
            low, high = max(0, round(start)), min(canvas.size[axis], round(start + scale * side))
            if high <= low:
                return
            edges.append((low, high))
            source.append((max(0.0, (low - start) / scale), min(float(side), (high - start) / scale)))
        (left, right), (top, bottom) = edges
        box = (source[0][0], source[1][0], source[0][1], source[1][1])
        canvas.paste(image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=box), (left, top))


def letterbox(image: Size, canvas: Size) -> Placement:
    """The whole image as large as it fits, in the middle.

    >>> letterbox((640, 480), (320, 320))
    Placement(scale=(0.5, 0.5), offset=(0.0, 40.0))
    """
    scale = min(canvas[axis] / image[axis] for axis in (0, 1))
    left, top = ((canvas[axis] - scale * image[axis]) / 2 for axis in (0, 1))
    return Placement((scale, scale), (left, top))


def letterboxed(image: Image.Image, canvas: Size, fill: tuple[int, int, int]) -> Image.Image:
    """It on a canvas of this colour."""
    result = Image.new("RGB", canvas, fill)
    letterbox(image.size, canvas).draw(image, result)
    return result


@dataclass(frozen=True)
class Augmentation:
    """What is done to each image of a training batch.

    Args:
        scale: the image is as large as letterboxed, times a factor between `1 - scale` and `1 + scale`, and lies anywhere
            it is seen best.
        stretch: and one side is longer than the other by a factor of up to `1 + stretch`.
        flip: mirror left to right with probability one half.
        hue, saturation, brightness: change these by up to this share.
        mosaic: the probability of four images instead of one, in the corners of the canvas.

    Raises:
        ConfigError: a value out of its range.
    """

    scale: float = 0.5
    stretch: float = 0.2
    flip: bool = True
    hue: float = 0.015
    saturation: float = 0.5
    brightness: float = 0.4
    mosaic: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "stretch", "hue", "saturation", "brightness"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must lie in [0, 1); got {getattr(self, name)!r}")
        if not 0.0 <= self.mosaic <= 1.0:
            raise ConfigError(f"mosaic must lie in 0..1; got {self.mosaic!r}")

    def __call__(
        self,
        first: Sample,
        others: Callable[[], Sample],
        canvas: Size,
        fill: tuple[int, int, int],
        draw: np.random.Generator,
    ) -> Sample:
        """One sample as it is trained on.

        Args:
            first: the sample. others: gives another one, for a mosaic.
            canvas: what the network sees.
            fill: colour of what no image covers.
            draw: random numbers.
        """
        wide, high = canvas
        if draw.random() < self.mosaic:
            across, down = round(draw.uniform(0.3, 0.7) * wide), round(draw.uniform(0.3, 0.7) * high)
            corners = [
                (0, 0, across, down),
                (across, 0, wide, down),
                (0, down, across, high),
                (across, down, wide, high),
            ]
            samples = [first, *(others() for _ in corners[1:])]
        else:
            corners, samples = [(0, 0, wide, high)], [first]
        result = Image.new("RGB", canvas, fill)
        boxes, labels = [], []
        for (left, top, right, bottom), (image, on_it, of_them) in zip(corners, samples, strict=True):
            part = Image.new("RGB", (right - left, bottom - top), fill)
            place = self._placement(image.size, part.size, canvas, draw)
            place.draw(image, part)
            result.paste(part, (left, top))
            seen, kept = visible(place.boxes(on_it), part.size)
            boxes.append(seen[kept] + torch.tensor([left, top, left, top], dtype=torch.float32))
            labels.append(of_them[kept])
        return self._flipped(self._recoloured(result, draw), torch.cat(boxes), torch.cat(labels), draw)

    def _placement(self, image: Size, part: Size, canvas: Size, draw: np.random.Generator) -> Placement:
        usual = letterbox(image, canvas).scale[0] * draw.uniform(1.0 - self.scale, 1.0 + self.scale)
        ratio = (1.0 + draw.uniform(0.0, self.stretch)) ** (0.5 if draw.random() < 0.5 else -0.5)
        scale = (usual * ratio, usual / ratio)
        # What is left of the canvas, or of the image, on both sides together.
        rest = [part[axis] - scale[axis] * image[axis] for axis in (0, 1)]
        left, top = (each * draw.random() for each in rest)
        return Placement(scale, (left, top))

    def _recoloured(self, image: Image.Image, draw: np.random.Generator) -> Image.Image:
        shift = draw.uniform(-self.hue, self.hue) * 256
        saturation, brightness = (1.0 + draw.uniform(-each, each) for each in (self.saturation, self.brightness))
        values = np.arange(256)
        tables = [(values + shift) % 256, np.clip(values * saturation, 0, 255), np.clip(values * brightness, 0, 255)]
        table = np.concatenate(tables).astype(np.uint8).tolist()
        return image.convert("HSV").point(table).convert("RGB")

    def _flipped(self, image: Image.Image, boxes: Tensor, labels: Tensor, draw: np.random.Generator) -> Sample:
        if not self.flip or draw.random() < 0.5:
            return image, boxes, labels
        mirrored = boxes.clone()
        mirrored[:, [0, 2]] = image.width - boxes[:, [2, 0]]
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mirrored, labels


def visible(boxes: Tensor, canvas: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Boxes cut at the border of the canvas, and of which enough is seen to be found: `[N, 4]` and bool `[N]`.

    >>> visible(torch.tensor([[-10.0, 0.0, 5.0, 8.0], [-10.0, 0.0, 15.0, 8.0]]), (20, 20))
    (tensor([[ 0.,  0.,  5.,  8.],
            [ 0.,  0., 15.,  8.]]), tensor([True, True]))
    """
    wide, high = canvas
    cut = torch.minimum(boxes.clamp_min(0.0), torch.tensor([wide, high, wide, high], dtype=torch.float32))
    sides = cut[:, 2:] - cut[:, :2]
    kept = (areas(cut) >= _LEAST_SHARE * areas(boxes)) & (sides >= _LEAST_SIDE).all(1)
    return cut, kept
