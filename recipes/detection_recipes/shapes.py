"""Drawn shapes on noise: a small set for detection that needs no data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from detection_recipes.annotations import AnnotatedImage, Detections, LeftOut, Objects

CLASSES = ("circle", "square", "triangle")
SIZE = 96
TRAIN, TEST = 240, 60
_MOST, _LEAST_SIDE, _LARGEST_SIDE = 4, 14, 40


@dataclass(frozen=True)
class DrawnPicture:
    """Shapes on noise, drawn anew each time: the same for the same seed.

    Args:
        seed: of the noise.
        shapes: class, box (left, top, right, bottom) and colour of each, the last one in front.
    """

    seed: int
    shapes: tuple[tuple[int, tuple[int, int, int, int], tuple[int, int, int]], ...]

    def open(self) -> Image.Image:
        noise = np.random.default_rng(self.seed).integers(60, 120, (SIZE, SIZE, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        draw = ImageDraw.Draw(image)
        for label, (left, top, right, bottom), colour in self.shapes:
            # Pillow draws the last pixel too.
            edges = (left, top, right - 1, bottom - 1)
            if label == 0:
                draw.ellipse(edges, fill=colour)
            elif label == 1:
                draw.rectangle(edges, fill=colour)
            else:
                draw.polygon([(left, bottom - 1), (right - 1, bottom - 1), ((left + right - 1) / 2, top)], fill=colour)
        return image


def drawn_shapes(train: int = TRAIN, test: int = TEST) -> Detections:
    """So many images of one to four shapes that do not touch.

    >>> shapes = drawn_shapes(2, 1)
    >>> [image.labels.tolist() for image in shapes.train], shapes.classes
    ([[2, 2], [1, 2, 2]], ('circle', 'square', 'triangle'))
    >>> shapes.train[0].open().size
    (96, 96)
    """
    images = [_image(seed) for seed in range(train + test)]
    source = f"drawn shapes: {train} training and {test} test images of {SIZE}x{SIZE}, {len(CLASSES)} classes"
    return Detections(tuple(images[:train]), tuple(images[train:]), CLASSES, source)


def _image(seed: int) -> AnnotatedImage:
    draw = np.random.default_rng((1, seed))
    shapes: list[tuple[int, tuple[int, int, int, int], tuple[int, int, int]]] = []
    wanted = int(draw.integers(1, _MOST + 1))
    for _ in range(20 * wanted):
        side, ratio = draw.uniform(_LEAST_SIDE, _LARGEST_SIDE), draw.uniform(0.8, 1.25)
        wide, high = (round(side * factor) for factor in (math.sqrt(ratio), 1 / math.sqrt(ratio)))
        left, top = int(draw.integers(0, SIZE - wide + 1)), int(draw.integers(0, SIZE - high + 1))
        box = left, top, left + wide, top + high
        if any(_touch(box, other) for _, other, _ in shapes):
            continue
        red, green, blue = (int(value) for value in draw.integers(150, 256, 3))
        shapes.append((int(draw.integers(len(CLASSES))), box, (red, green, blue)))
        if len(shapes) == wanted:
            break
    objects = Objects((SIZE, SIZE), LeftOut())
    for number, (label, box, _) in enumerate(shapes, 1):
        objects.add(box, label, f"drawn image {seed}, object {number}")
    return objects.image(f"drawn image {seed}", DrawnPicture(seed, tuple(shapes)))


def _touch(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
