"""Which annotated images: PASCAL VOC and COCO as published, folders and tars laid out as they are, or drawn shapes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from casc_core.errors import ConfigError, DataError
from detection_recipes import coco, voc
from detection_recipes.annotations import AnnotatedImage, Detections, LeftOut, summary
from detection_recipes.files import Files, FolderFiles, TarFiles
from detection_recipes.shapes import drawn_shapes

TRAIN, TEST = ("trainval", "train"), ("test", "val", "valid", "validation")
"""Names of splits, the first that there is."""
HELD_OUT = 5
"""Where there is one split alone, one image of so many is for testing."""


def load_detections(
    data: str | Path | None = None,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> Detections:
    """Load annotated images; their pixels are read while they are used.

    Args:
        data: one of

            - "voc": PASCAL VOC as published, training on `trainval` of 2007 and 2012, testing on `test` of 2007: below the
              folder that the environment variable CASC_DATA names, `VOC2007` and `VOC2012`, themselves or in `VOCdevkit`;
            - "coco": `annotations/instances_train2017.json` and `instances_val2017.json` with their images, below CASC_DATA
              or its folder `coco`;
            - a folder, or an uncompressed tar (or a folder that holds one), laid out as one of both;
            - "shapes" or None: shapes that are drawn.
        train_split, test_split: names of lists or JSON files; None: trainval or else train, and test or else val. Where
            there is one split alone, every fifth of its images is for testing.
        limit_train, limit_test: take the first so many images.

    Raises:
        DataError: missing or malformed files, an unknown class; the message names file and object.
        ConfigError: a limit below 1.

    >>> load_detections("shapes", limit_train=10).source
    'drawn shapes: 10 training and 60 test images of 96x96, 3 classes'
    """
    for name, value in (("limit_train", limit_train), ("limit_test", limit_test)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1; got {value}")
    if data is None or data == "shapes":
        shapes = {"train": limit_train, "test": limit_test}
        return drawn_shapes(**{name: value for name, value in shapes.items() if value is not None})
    left_out = LeftOut()
    if data == "voc":
        train, test, classes, what = _voc_as_published(left_out)
    elif data == "coco":
        train, test, classes, what = _coco_as_published(left_out)
    else:
        train, test, classes, what = _from_place(Path(data), train_split, test_split, left_out)
    train, test = train[:limit_train], test[:limit_test]
    if not any(len(image.certain[0]) for image in train):
        raise DataError(f"{what}: there is no box on any training image")
    source = f"{what}: {summary(train)} training and {summary(test)} test images, {len(classes)} classes"
    notices = (f"{what}: {left_out}",) if left_out.places else ()
    return Detections(tuple(train), tuple(test), tuple(classes), source, notices)


Splits = tuple[list[AnnotatedImage], list[AnnotatedImage], Sequence[str], str]


def _casc_data(name: str) -> Path:
    folder = os.environ.get("CASC_DATA")
    if not folder:
        raise DataError(
            f"--data {name} is looked for in the folder that CASC_DATA names, which is not set; or pass a folder"
        )
    return Path(folder)


def _voc_as_published(left_out: LeftOut) -> Splits:
    root = _casc_data("voc")
    for place in (root, root / "VOCdevkit"):
        years = [place / f"VOC{year}" for year in (2007, 2012)]
        if all(year.is_dir() for year in years):
            break
    else:
        raise DataError(f"{root}: it holds no VOC2007 and VOC2012, themselves or in VOCdevkit")
    classes = {name: number for number, name in enumerate(voc.CLASSES)}
    train = [image for year in years for image in voc.read(FolderFiles(year), "", "trainval", classes, left_out, 1)[0]]
    test, _ = voc.read(FolderFiles(years[0]), "", "test", classes, left_out, 1)
    return train, test, voc.CLASSES, "PASCAL VOC"


def _coco_as_published(left_out: LeftOut) -> Splits:
    root = _casc_data("coco")
    place = next((each for each in (root / "coco", root) if (each / "annotations").is_dir()), None)
    if place is None:
        raise DataError(f"{root}: it holds no annotations/, itself or in coco/")
    files = FolderFiles(place)
    train, classes = coco.read(files, "annotations/instances_train2017.json", left_out)
    test, _ = coco.read(files, "annotations/instances_val2017.json", left_out, classes)
    return train, test, classes, "COCO"


def _from_place(place: Path, train_split: str | None, test_split: str | None, left_out: LeftOut) -> Splits:
    files = _files(place)
    what = f"{'tar' if isinstance(files, TarFiles) else 'folder'} {place.resolve().name}"
    described = coco.find(files)
    if described:
        return _coco_splits(files, described, train_split, test_split, left_out, what)
    folders = voc.places(files)
    if len(folders) != 1:
        several = f"several places are ({', '.join(folders)}); pass one of them" if folders else "it is not"
        raise DataError(
            f"{place}: expected it laid out as VOC ({voc.LISTS}, {voc.ANNOTATIONS}, {voc.IMAGES}) or COCO "
            f"(instances_SPLIT.json and images); {several}"
        )
    return _voc_splits(files, folders[0], train_split, test_split, left_out, what)


def _files(place: Path) -> Files:
    if place.is_file():
        return TarFiles(place)
    if not place.is_dir():
        raise DataError(f"{place}: there is no such folder or file; or pass voc, coco or shapes")
    tars = sorted(place.glob("*.tar"))
    return TarFiles(tars[0]) if len(tars) == 1 else FolderFiles(place)


def _chosen(there: Sequence[str], asked: str | None, usual: Sequence[str], what: str) -> str | None:
    """The split that was asked for, or the first usual one; None: there is none of those."""
    if asked is not None:
        if asked not in there:
            raise DataError(f"{what}: there is no split {asked!r}; there are {', '.join(sorted(there)) or 'none'}")
        return asked
    return next(
        (each for name in usual for each in sorted(there) if each == name or each.rstrip("0123456789") == name), None
    )


def _voc_splits(
    files: Files, folder: str, train_split: str | None, test_split: str | None, left_out: LeftOut, what: str
) -> Splits:
    there = voc.splits(files, folder)
    train, test = (_chosen(there, asked, usual, what) for asked, usual in ((train_split, TRAIN), (test_split, TEST)))
    if train is None:
        raise DataError(f"{what}: it has no split {' or '.join(TRAIN)}; there are {', '.join(there) or 'none'}")
    images, classes = voc.read(files, folder, train, None, left_out)
    if test is None or test == train:
        return *_divided(images), tuple(classes), f"{what}, {train} divided"
    return images, voc.read(files, folder, test, classes, left_out)[0], tuple(classes), f"{what}, {train} and {test}"


def _coco_splits(
    files: Files, there: dict[str, str], train_split: str | None, test_split: str | None, left_out: LeftOut, what: str
) -> Splits:
    train, test = (
        _chosen(list(there), asked, usual, what) for asked, usual in ((train_split, TRAIN), (test_split, TEST))
    )
    if train is None and len(there) == 1:
        train = next(iter(there))
    if train is None:
        raise DataError(f"{what}: it has no split {' or '.join(TRAIN)}; there are {', '.join(there)}: name one")
    images, classes = coco.read(files, there[train], left_out)
    if test is None or test == train:
        return *_divided(images), classes, f"{what}, {train} divided"
    return images, coco.read(files, there[test], left_out, classes)[0], classes, f"{what}, {train} and {test}"


def _divided(images: list[AnnotatedImage]) -> tuple[list[AnnotatedImage], list[AnnotatedImage]]:
    """Every fifth image for testing, the others for training."""
    rest = [image for number, image in enumerate(images) if number % HELD_OUT != HELD_OUT - 1]
    return rest, images[HELD_OUT - 1 :: HELD_OUT]
