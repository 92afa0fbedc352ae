"""Folders of images, one subfolder for each class: listed, and decoded by Pillow."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

from casc_core.errors import DataError
from image_recipes.image_set import ImageSet, Splits

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
EVALUATED = ("test", "val", "valid", "validation")


def find(folder: Path, evaluated: Sequence[str] = EVALUATED) -> tuple[Path, Path] | None:
    """The folders of the training and of the test images if `folder` has both; the latter is the first of `evaluated`."""
    tests = [folder / name for name in evaluated if (folder / name).is_dir()]
    return (folder / "train", tests[0]) if tests and (folder / "train").is_dir() else None


def list_images(folder: Path) -> tuple[tuple[str, ...], list[list[str]]]:
    """The classes (names of the subfolders, sorted as torchvision sorts them) and each one's image files, sorted.

    Files are paths relative to their class's folder; folders within it are searched too.

    Raises:
        DataError: there is no class, or one without images.
    """
    try:
        with os.scandir(folder) as entries:
            classes = sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}") from error
    if not classes:
        loose = next((name for name in sorted(os.listdir(folder)) if name.lower().endswith(EXTENSIONS)), None)
        found = f"; images such as {loose} lie in it directly" if loose else ""
        raise DataError(f"{folder}: it has no subfolder; expected one for each class, {folder.name}/CLASS/IMAGE{found}")
    files = []
    for name in classes:
        found_files = []
        for place, _, names in sorted(os.walk(folder / name, followlinks=True)):
            within = os.path.relpath(place, folder / name)
            images = sorted(file for file in names if file.lower().endswith(EXTENSIONS) and file[0] != ".")
            found_files += images if within == "." else [os.path.join(within, file) for file in images]
        if not found_files:
            raise DataError(f"{folder / name}: it holds no image ({' '.join(EXTENSIONS)})")
        files.append(found_files)
    return tuple(classes), files


def same_classes(train: Path, classes: tuple[str, ...], test: Path, others: tuple[str, ...]) -> None:
    """Refuse splits with different classes: their labels would mean different things."""
    if classes == others:
        return
    only = sorted(set(classes) ^ set(others))
    where = train if only[0] in classes else test
    raise DataError(
        f"{train} has {len(classes)} classes and {test} has {len(others)}, which differ: {only[0]!r} is in {where.name} "
        "only; both must have the same subfolders"
    )


def open_image(file: Path | BinaryIO, name: str | None = None) -> Image.Image:
    """An image as RGB, decoded; `name` is what an error calls it, if not its path.

    Raises:
        DataError: the file is missing, is no image, or is damaged or truncated.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities in metadata
            with Image.open(file) as image:
                return image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise DataError(f"{name or file}: an image of that many pixels is refused ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise
        raise DataError(
            f"{name or file}: missing, damaged or not an image ({error}); remove it or fetch it again"
        ) from error


def to_tensor(image: Image.Image) -> torch.Tensor:
    """uint8 `[3, H, W]`."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def stack(pictures: Iterable[tuple[str, Image.Image]], size: int | None) -> torch.Tensor:
    """uint8 `[N, 3, H, W]` of pictures and their names.

    Each is fitted to `size` by `size` (its middle, cut square); with None it stays as it is, and all must be alike.
    """
    pixels: list[torch.Tensor] = []
    first = ""
    for name, picture in pictures:
        image = picture if size is None else ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
        pixels.append(to_tensor(image))
        first = first or name
        if pixels[-1].shape != pixels[0].shape:
            (_, height, width), (_, high, wide) = pixels[-1].shape, pixels[0].shape
            raise DataError(
                f"{name} is {width}x{height}, but {first} is {wide}x{high}; pass size=... to bring all images to one size"
            )
    return torch.stack(pixels)


def read(train: Path, test: Path, size: int | None) -> Splits:
    """Both splits, in memory."""
    (classes, train_files), (others, test_files) = list_images(train), list_images(test)
    same_classes(train, classes, test, others)
    splits = [_read(folder, classes, files, size) for folder, files in ((train, train_files), (test, test_files))]
    return Splits(splits[0], splits[1], classes, f"folder {train.parent.resolve().name}")


def _read(folder: Path, classes: tuple[str, ...], files: list[list[str]], size: int | None) -> ImageSet:
    paths = [folder / name / file for name, names in zip(classes, files, strict=True) for file in names]
    images = stack(((str(path), open_image(path)) for path in paths), size)
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(names) for names in files]))
    return ImageSet(images, labels)
