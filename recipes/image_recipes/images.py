"""Labelled images in memory: CIFAR from its original files, folders of images, the hub, or scikit-learn's digits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from casc_core.errors import ConfigError, DataError
from casc_lab import hub
from image_recipes import cifar, folders
from image_recipes.image_set import ImageSet, Splits

__all__ = ["DIGITS_SIZE", "ImageData", "ImageSet", "load_images"]

HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
DIGITS_SIZE, DIGITS_TEST = 16, 360

_IMAGE_COLUMNS = ("img", "image", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class")


@dataclass(frozen=True)
class ImageData:
    """A data set for image classification.

    Attributes:
        train, test: the two splits, all images of one size.
        classes: names of the classes; a label is a position here.
        mean, std: of each channel of the training images, in units of 0..1.
        source: one line on what this is, without paths of this machine.
        notice: what the user should be told about the choice of the data, or None.
    """

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    notice: str | None = None


def load_images(
    data: str | Path | None = None,
    name: Literal["cifar10", "cifar100"] = "cifar10",
    *,
    size: int | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> ImageData:
    """Load labelled images.

    Args:
        data: a folder or file, the name of a hub data set, or "digits"; None chooses (see below). A folder holds, itself
            or in its subfolder `cifar10` or `cifar100`,

            - CIFAR as published: `cifar-10-batches-py/` or `cifar-100-python/`, their files, or the `.tar.gz` (which may
              also be given itself). The pickles are read as data; one that asks for anything else is refused;
            - `cifar100.npz`: `x_train`, `x_test` uint8 `[N, 32, 32, 3]`, `y_train`, `y_test` `[N]`;
            - images: `train/CLASS/IMAGE` and `test/`, `val/` or `valid/CLASS/IMAGE`. `name` is then not used.
        name: which data set to take from a folder that may hold both, or from the hub.
        size: height and width to bring all images to; None leaves them as they are (the digits, 8x8, are doubled).
        limit_train, limit_test: take this many images only: the first ones, from the classes in turn.

    With `data=None`: the folder that the environment variable CASC_DATA names; else `name` from the local cache of
    `datasets` or from the hub, if that answers at once; else the digits, with a `notice` that says so.

    Raises:
        DataError: a missing, damaged or malicious file, an image that cannot be decoded, images of different sizes where
            `size` is None, classes that differ between the splits, labels out of range, an unreachable hub data set, or
            scikit-learn missing.
        ConfigError: an unknown `name`; a size or a limit below 1.

    >>> digits = load_images("digits", limit_train=100)
    >>> digits.train.images.shape, digits.train.labels.bincount().tolist()
    (torch.Size([100, 3, 16, 16]), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    >>> digits.source
    'scikit-learn digits: 100 of 1,437 training and 360 test images of 16x16, 10 classes'
    """
    if name not in HUB:
        raise ConfigError(f"unknown data set {name!r}; choose one of {', '.join(HUB)}")
    for what, value in (("size", size), ("limit_train", limit_train), ("limit_test", limit_test)):
        if value is not None and value < 1:
            raise ConfigError(f"{what} must be at least 1; got {value}")
    splits, notice = _choose(data, name, size)
    used = [len(part.labels.unique()) for part in (splits.train, splits.test)]
    if len(splits.classes) < 2 or min(used) < 2:
        raise DataError(f"{splits.what} has images of {min(used)} class; there must be two or more")
    train = splits.train.balanced(limit_train).resized(size)
    test = splits.test.balanced(limit_test).resized(size)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{splits.what}: training images are {_size(train)}, test images {_size(test)}; pass size=... to bring all "
            "images to one size"
        )
    mean, std = train.statistics()
    counts = " and ".join(
        f"{_count(part, whole)} {split}"
        for part, whole, split in ((train, splits.train, "training"), (test, splits.test, "test"))
    )
    source = f"{splits.what}: {counts} images of {_size(train)}, {len(splits.classes)} classes"
    return ImageData(train, test, splits.classes, _three(mean), _three(std), source, notice)


def _size(images: ImageSet) -> str:
    return f"{images.images.shape[3]}x{images.images.shape[2]}"


def _count(part: ImageSet, whole: ImageSet) -> str:
    return f"{len(part):,}" if len(part) == len(whole) else f"{len(part):,} of {len(whole):,}"


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _choose(data: str | Path | None, name: str, size: int | None) -> tuple[Splits, str | None]:
    if data is None:
        if folder := os.environ.get("CASC_DATA"):
            return _from_folder(Path(folder), name, size, "the environment variable CASC_DATA names "), None
        try:
            return _from_hub(HUB[name], size), None
        except hub.UnreachableError as error:
            return _digits(size), (
                f"{error}; using scikit-learn's digits, which are not {cifar.LAYOUTS[name].title}. For real images set "
                f"CASC_DATA, or pass a folder with {cifar.LAYOUTS[name].folder}"
            )
    if data == "digits":
        return _digits(size), None
    if isinstance(data, Path) or Path(data).exists() or not hub.NAME.fullmatch(data):
        return _from_folder(Path(data), name, size), None
    try:
        return _from_hub(HUB.get(data, data), size), None
    except hub.UnreachableError as error:
        raise DataError(f"there is no folder {data!r}, and {error}; pass a folder, or 'digits'") from error


# --- folders and files -------------------------------------------------------------------------------------------


def _from_folder(folder: Path, name: str, size: int | None, origin: str = "") -> Splits:
    if not folder.exists():
        raise DataError(f"{origin}{folder}: there is no such folder")
    for place in (folder, folder / name):
        if reader := cifar.find(place, name):
            return reader()
        if both := folders.find(place):
            return folders.read(*both, size)
    other = next(one for one in HUB if one != name)
    for place in (folder, folder / other):
        if cifar.find(place, other):
            titles = cifar.LAYOUTS[other].title, cifar.LAYOUTS[name].title
            raise DataError(f"{origin}{folder}: it holds {titles[0]}, not {titles[1]}; ask for {other!r}")
    layout = cifar.LAYOUTS[name]
    single = " or cifar100.npz" if name == "cifar100" else ""
    raise DataError(
        f"{origin}{folder}: it holds no images in a known layout; expected {layout.folder}/ (or {layout.archive}) as "
        f"published{single}, or images as train/CLASS/IMAGE and test/CLASS/IMAGE"
    )


# --- the hub -----------------------------------------------------------------------------------------------------


def _from_hub(repository: str, size: int | None) -> Splits:
    what = f"hub data set {repository}"
    splits = hub.load(repository)
    evaluated = next((split for split in ("test", "validation", "valid") if split in splits), None)
    if "train" not in splits or evaluated is None:
        raise DataError(f"{what}: expected the splits train and test; it has {', '.join(splits)}")
    features = splits["train"].features
    image, label = _columns(what, features)
    classes = tuple(features[label].names)

    def images(split: str) -> ImageSet:
        labels = splits[split][label]
        for row, value in enumerate(labels):
            if value is None or not 0 <= value < len(classes):
                raise DataError(f"{what}, {split} row {row}: unknown label {value!r}")
        named = ((f"{what}, {split} row {row}", picture) for row, picture in enumerate(_pictures(splits[split], image)))
        if not len(labels):
            raise DataError(f"{what}: the split {split} is empty")
        try:
            return ImageSet(folders.stack(named, size), torch.tensor(list(labels)))
        except (OSError, SyntaxError) as error:
            raise DataError(f"{what}, {split}: an image is damaged ({error})") from error

    note = "" if evaluated == "test" else " (validation split as test)"
    return Splits(images("train"), images(evaluated), classes, f"{what}{note}")


def _pictures(split: Any, column: str) -> Any:
    return (row[column] for row in split.select_columns([column]))


def _columns(what: str, features: Any) -> tuple[str, str]:
    """The image column and the label column of a hub data set."""
    pictures = [column for column in features if type(features[column]).__name__ == "Image"]
    labels = [column for column in features if hasattr(features[column], "names")]
    image = next((column for column in _IMAGE_COLUMNS if column in pictures), pictures[0] if pictures else None)
    label = next((column for column in _LABEL_COLUMNS if column in labels), labels[0] if labels else None)
    if image is None or label is None:
        missing = "images" if image is None else "named class labels"
        raise DataError(f"{what}: it has no column of {missing}; its columns are {', '.join(features)}")
    return image, label


# --- the digits --------------------------------------------------------------------------------------------------


def _digits(size: int | None) -> Splits:
    """1,797 real digits of 8x8, 1,437 to train on and 360 to test, each class in the same share."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise DataError(
            "the digits are part of scikit-learn, which is not installed: pip install 'casc[digits]' (or pip install "
            "scikit-learn), or pass a folder of images"
        ) from error
    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # published as whole numbers 0..16
    images = torch.from_numpy(grey).unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = train_test_split(np.arange(len(labels)), test_size=DIGITS_TEST, stratify=bunch.target, random_state=0)
    parts = [
        ImageSet(images[rows], labels[rows]).resized(size or DIGITS_SIZE)
        for rows in (torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(test)))
    ]
    names = tuple(str(name) for name in bunch.target_names)
    return Splits(parts[0], parts[1], names, "scikit-learn digits")
