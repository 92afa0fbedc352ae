"""How a photograph becomes the square a network sees: a random piece of it for training, its middle for evaluation.

The arithmetic is torchvision's (RandomResizedCrop and RandomHorizontalFlip; Resize and CenterCrop, on Pillow images), which
published weights were trained and evaluated with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from casc_core.errors import ConfigError

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Views:
    """Sizes of the views.

    Attributes:
        size: height and width of what the network sees.
        resize: the shorter side that the whole image is brought to before its middle is cut out for evaluation.
        seed: what the random views depend on, beside the epoch and the image.
    """

    size: int = 224
    resize: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigError(f"{name} must be a whole number of pixels from 1 on; got {getattr(self, name)!r}")
        if self.resize < self.size:
            raise ConfigError(f"resize must be at least size, {self.size}; got {self.resize}")
        if type(self.seed) is not int or self.seed < 0:
            raise ConfigError(f"seed must be a whole number from 0 on; got {self.seed!r}")

    def random(self, image: Image.Image, *key: int) -> Image.Image:
        """A piece of 8 to 100% of the area, stretched by up to 4/3, mirrored or not; the same for the same `key`."""
        generator = np.random.default_rng((self.seed, *key))
        box = random_box(image.width, image.height, generator)
        piece = image.crop(box).resize((self.size, self.size), Image.Resampling.BILINEAR)
        return piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else piece

    def central(self, image: Image.Image) -> Image.Image:
        """The middle of the image, its shorter side first brought to `resize`."""
        short, long = sorted(image.size)
        longer = int(self.resize * long / short)
        wide = (longer, self.resize) if image.width > image.height else (self.resize, longer)
        resized = image.resize(wide, Image.Resampling.BILINEAR)  # Pillow's filter widens with the scale: no aliasing
        left, top = (round((side - self.size) / 2) for side in resized.size)
        return resized.crop((left, top, left + self.size, top + self.size))


def random_box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random piece; the largest middle piece of an allowed shape if ten draws do not fit."""
    for _ in range(10):
        area = width * height * generator.uniform(*SCALE)
        ratio = math.exp(generator.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = (int(generator.integers(0, room + 1)) for room in (width - wide, height - high))
            return left, top, left + wide, top + high
    wide, high = width, height
    if width / height < RATIO[0]:
        high = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        wide = round(height * RATIO[1])
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
