"""Image files of three classes that differ in colour, for the recipes; and the recipes run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

RECIPES = Path(__file__).parents[2] / "recipes"
CLASSES = ("blue", "green", "red")
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


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


def run_recipe(recipe: str, *arguments: object, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *launcher, str(RECIPES / recipe), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False, timeout=300)
