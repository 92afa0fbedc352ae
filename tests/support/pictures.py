"""Image files of three classes that differ in colour, for the recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")


def write_pictures(folder: Path, side: int, train: int, test: int, evaluated: str = "test") -> Path:
    """`train` and `test` images of each class, of `side` pixels and a few more."""
    draw = np.random.default_rng(0)
    for split, count in (("train", train), (evaluated, test)):
        for channel, name in enumerate(reversed(CLASSES)):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 130, (side, side, 3)).astype(np.uint8)
                pixels[..., channel] += 70
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder
