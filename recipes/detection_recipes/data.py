"""Which annotated images: PASCAL VOC and COCO as published, folders and tars laid out as they are, or drawn shapes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from casc_core.errors import ConfigError, DataError
from casc_lab import hub
from detection_recipes import coco, voc
from detection_recipes.annotations import AnnotatedImage, Detections, LeftOut, summary
from detection_recipes.coco import CocoFiles
from detection_recipes.files import Files, FolderFiles, JoinedFiles, TarFiles
from detection_recipes.hub_data import BOXES, HubData
from detection_recipes.shapes import drawn_shapes
from detection_recipes.voc import PascalVoc, VocFolder

TRAIN, TEST = ("trainval", "train"), ("test", "val", "valid", "validation")
"""Names of splits, the first that there is; beside another test split than `test`, `train` goes before `trainval`."""
HELD_OUT = 5
"""Where there is one split alone, one image of so many is for testing."""
_YEAR = re.compile(r"VOC\d{4}")


def load_detections(
    data: str | Path | None = None,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    hub_boxes: str = BOXES[0],
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> Detections:
    """Load annotated images; their pixels are read while they are used.

    Args:
        data: one of

            - "voc": PASCAL VOC as published, training on `trainval` of 2007 and 2012, testing on `test` of 2007: below the
              folder that the environment variable CASC_DATA names, or its folder `voc`, `VOC2007` and `VOC2012`, themselves
              or in `VOCdevkit`, or the tars that hold them;
            - "coco": `annotations/instances_train2017.json` and `instances_val2017.json` with their images, below CASC_DATA
              or its folder `coco`;
            - a folder, or uncompressed tar (or a folder that holds some), laid out as one of both; of folders called
              `VOC2007` and `VOC2012`, the classes and splits are those of PASCAL VOC;
            - the name of a data set of the Hugging Face hub;
            - "shapes" or None: shapes that are drawn.
        train_split, test_split: names of lists or JSON files; None: trainval or else train, and test or else val. Where
            there is one split alone, every fifth of its images is for testing.
        hub_boxes: what follows left and top in a box of a hub data set, as `detection_recipes.hub_data.HubData` takes it.
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
    source, left_out = _source(data, hub_boxes), LeftOut()
    train_name, test_name = _pair(source.splits, train_split, test_split, source.what)
    train = source.read(train_name, left_out)
    if test_name in (None, train_name):
        (train, test), what = _divided(train), f"{source.what}, {train_name} divided"
    else:
        assert test_name is not None
        test = source.read(test_name, left_out)
        what = source.what if source.name else f"{source.what}, {train_name} and {test_name}"
    both = {image.name for image in train} & {image.name for image in test}
    if both:
        raise DataError(
            f"{what}: {len(both):,} of {len(test):,} test images are trained on too, such as {min(both)}; name splits "
            "without common images by --train-split and --test-split"
        )
    train, test = train[:limit_train], test[:limit_test]
    for kind, images in (("training", train), ("test", test)):
        if not any(len(image.certain[0]) for image in images):
            raise DataError(f"{what}: there is no box on any {kind} image")
    said = f"{what}: {summary(train)} training and {summary(test)} test images, {len(source.classes)} classes"
    notices = (f"{what}: {left_out}",) if left_out.places else ()
    return Detections(tuple(train), tuple(test), tuple(source.classes), said, notices, source.name)


class Source(Protocol):
    """Where annotated images come from."""

    @property
    def what(self) -> str:
        """What it is called, without paths of this machine."""
        ...

    @property
    def name(self) -> str:
        """ "voc" or "coco", if it is one of those; else empty."""
        ...

    @property
    def splits(self) -> Sequence[str]:
        """Names of its splits."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Names of its classes, once a split has been read."""
        ...

    def read(self, split: str, left_out: LeftOut) -> list[AnnotatedImage]:
        """The images of a split, whose classes are those of the split that was read first; `left_out` counts what cannot be
        used.

        Raises:
            DataError: files are missing or malformed, or a class is unknown.
        """
        ...


def _source(data: str | Path, hub_boxes: str) -> Source:
    """Where the images come from that a name, a folder or a file stands for."""
    if data in ("voc", "coco"):
        return _as_published(str(data))
    if isinstance(data, Path) or Path(data).exists() or not hub.NAME.fullmatch(data):
        return _from_place(Path(data))
    try:
        return HubData(data, hub_boxes)
    except hub.UnreachableError as error:
        raise DataError(
            f"there is no folder {data!r}, and {error}; pass a folder or file, voc, coco or shapes"
        ) from error


def _as_published(name: str) -> Source:
    """PASCAL VOC or COCO where CASC_DATA says."""
    folder = os.environ.get("CASC_DATA")
    if not folder:
        raise DataError(
            f"--data {name} is looked for in the folder that CASC_DATA names, which is not set; or pass a folder"
        )
    root = Path(folder)
    if name == "coco":
        for place in (root / "coco", root):
            if (place / "annotations").is_dir():
                return CocoFiles(FolderFiles(place), "COCO")
        raise DataError(f"{root}: it holds no annotations/, itself or in coco/")
    for place in (root, root / "VOCdevkit", root / "voc", root / "voc/VOCdevkit"):
        years = {year: year for year in ("VOC2007", "VOC2012") if (place / year).is_dir()}
        if len(years) == 2:
            return PascalVoc(FolderFiles(place), years)
        if any(place.glob("VOC*.tar")):
            return _from_place(place)
    raise DataError(
        f"{root}: it holds no VOC2007 and VOC2012, themselves or in VOCdevkit, nor the tars that hold them; nor does its "
        "folder voc"
    )


def _from_place(place: Path) -> Source:
    files = _files(place)
    what = f"{'folder' if isinstance(files, FolderFiles) else 'tar'} {place.resolve().name}"
    described = CocoFiles(files, what)
    if described.splits:
        return described
    folders = voc.places(files)
    years = {folder.rpartition("/")[2] or place.resolve().name: folder for folder in folders}
    if folders and len(years) == len(folders) and all(_YEAR.fullmatch(year) for year in years):
        return PascalVoc(files, years)
    if len(folders) != 1:
        several = f"several places are ({', '.join(folders)}); pass one of them" if folders else "it is not"
        raise DataError(
            f"{place}: expected it laid out as VOC ({voc.LISTS}, {voc.ANNOTATIONS}, {voc.IMAGES}) or COCO "
            f"(instances_SPLIT.json and images); {several}"
        )
    return VocFolder(files, folders[0], what)


def _files(place: Path) -> Files:
    if place.is_file():
        return TarFiles(place)
    if not place.is_dir():
        raise DataError(
            f"{place}: there is no such folder or file; pass one, voc, coco, shapes, or the name of a hub data set"
        )
    folder, tars = FolderFiles(place), sorted(place.glob("*.tar"))
    if not tars or voc.places(folder) or coco.find(folder):
        return folder
    return TarFiles(tars[0]) if len(tars) == 1 else JoinedFiles([TarFiles(tar) for tar in tars], str(place))


def _pair(there: Sequence[str], train_split: str | None, test_split: str | None, what: str) -> tuple[str, str | None]:
    """The splits to train on and to test on; None: there is none of the latter.

    Raises:
        DataError: there is none of the former.
    """
    test = _chosen(there, test_split, TEST, what)
    usual = TRAIN if test in ("test", None) else TRAIN[::-1]
    train = _chosen(there, train_split, usual, what) or (there[0] if len(there) == 1 else None)
    if train is None:
        raise DataError(
            f"{what}: it has no split {' or '.join(TRAIN)}; there are {', '.join(sorted(there)) or 'none'}: name one by "
            "--train-split"
        )
    return train, test


def _chosen(there: Sequence[str], asked: str | None, usual: Sequence[str], what: str) -> str | None:
    """The split that was asked for, or the first usual one; None: there is none of those."""
    if asked is not None:
        if asked not in there:
            raise DataError(f"{what}: there is no split {asked!r}; there are {', '.join(sorted(there)) or 'none'}")
        return asked
    return next(
        (each for name in usual for each in sorted(there) if each == name or each.rstrip("0123456789") == name), None
    )


def _divided(images: list[AnnotatedImage]) -> tuple[list[AnnotatedImage], list[AnnotatedImage]]:
    """Every fifth image for testing, the others for training."""
    rest = [image for number, image in enumerate(images) if number % HELD_OUT != HELD_OUT - 1]
    return rest, images[HELD_OUT - 1 :: HELD_OUT]
