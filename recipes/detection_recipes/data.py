"""Which annotated images: PASCAL VOC and COCO as published, folders and tars laid out as they are, or drawn shapes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from casc_core.errors import ConfigError, DataError
from casc_lab import hub
from detection_recipes import coco, voc
from detection_recipes.annotations import AnnotatedImage, Detections, LeftOut, summary
from detection_recipes.files import Files, FolderFiles, JoinedFiles, TarFiles
from detection_recipes.hub_data import BOXES, HubData
from detection_recipes.shapes import drawn_shapes

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
    left_out = LeftOut()
    if data in ("voc", "coco"):
        train, test, classes, what = _as_published(str(data), train_split, test_split, left_out)
    elif isinstance(data, Path) or Path(data).exists() or not hub.NAME.fullmatch(data):
        train, test, classes, what = _from_place(Path(data), train_split, test_split, left_out)
    else:
        train, test, classes, what = _from_hub(data, hub_boxes, train_split, test_split, left_out)
    both = {image.name for image in train} & {image.name for image in test}
    if both:
        raise DataError(
            f"{what}: {len(both):,} of {len(test):,} test images are trained on too, such as {min(both)}; name splits "
            "without common images by --train-split and --test-split"
        )
    train, test = train[:limit_train], test[:limit_test]
    for name, images in (("training", train), ("test", test)):
        if not any(len(image.certain[0]) for image in images):
            raise DataError(f"{what}: there is no box on any {name} image")
    source = f"{what}: {summary(train)} training and {summary(test)} test images, {len(classes)} classes"
    notices = (f"{what}: {left_out}",) if left_out.places else ()
    published = what.split()[0]
    name = {"PASCAL": "voc", "COCO": "coco"}.get(published, "")
    return Detections(tuple(train), tuple(test), tuple(classes), source, notices, name)


Splits = tuple[list[AnnotatedImage], list[AnnotatedImage], Sequence[str], str]


def _as_published(data: str, train_split: str | None, test_split: str | None, left_out: LeftOut) -> Splits:
    """PASCAL VOC or COCO where CASC_DATA says."""
    folder = os.environ.get("CASC_DATA")
    if not folder:
        raise DataError(
            f"--data {data} is looked for in the folder that CASC_DATA names, which is not set; or pass a folder"
        )
    root = Path(folder)
    if data == "coco":
        place = next((each for each in (root / "coco", root) if (each / "annotations").is_dir()), None)
        if place is None:
            raise DataError(f"{root}: it holds no annotations/, itself or in coco/")
        files = FolderFiles(place)
        train, classes = coco.read(files, f"annotations/instances_{train_split or 'train2017'}.json", left_out)
        test, _ = coco.read(files, f"annotations/instances_{test_split or 'val2017'}.json", left_out, classes)
        return train, test, classes, "COCO"
    for place in (root, root / "VOCdevkit", root / "voc", root / "voc/VOCdevkit"):
        years = {year: f"{year}" for year in ("VOC2007", "VOC2012") if (place / year).is_dir()}
        if len(years) == 2:
            return _pascal_voc(FolderFiles(place), years, train_split, test_split, left_out)
        if any(place.glob("VOC*.tar")):
            return _from_place(place, train_split, test_split, left_out)
    raise DataError(
        f"{root}: it holds no VOC2007 and VOC2012, themselves or in VOCdevkit, nor the tars that hold them; nor does its "
        "folder voc"
    )


def _pascal_voc(
    files: Files, years: Mapping[str, str], train_split: str | None, test_split: str | None, left_out: LeftOut
) -> Splits:
    """PASCAL VOC, of some years, each in a folder: trained on all of them, tested on the first that has the test split."""
    what = f"PASCAL VOC {' and '.join(year.removeprefix('VOC') for year in sorted(years))}"
    there = {year: voc.splits(files, years[year]) for year in sorted(years)}
    train, test = _pair(sorted({split for splits in there.values() for split in splits}), train_split, test_split, what)
    classes = {name: number for number, name in enumerate(voc.CLASSES)}

    def read(year: str, split: str) -> list[AnnotatedImage]:
        return voc.read(files, years[year], split, classes, left_out, first_pixel=1)[0]

    images = [image for year, splits in there.items() if train in splits for image in read(year, train)]
    if test is None or test == train:
        return *_divided(images), voc.CLASSES, f"{what}, {train} divided"
    year = next(year for year, splits in there.items() if test in splits)
    return images, read(year, test), voc.CLASSES, what


def _from_place(place: Path, train_split: str | None, test_split: str | None, left_out: LeftOut) -> Splits:
    files = _files(place)
    what = f"{'folder' if isinstance(files, FolderFiles) else 'tar'} {place.resolve().name}"
    described = coco.find(files)
    if described:
        return _coco_splits(files, described, train_split, test_split, left_out, what)
    folders = voc.places(files)
    years = {folder.rpartition("/")[2] or place.resolve().name: folder for folder in folders}
    if folders and len(years) == len(folders) and all(_YEAR.fullmatch(year) for year in years):
        return _pascal_voc(files, years, train_split, test_split, left_out)
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
        raise DataError(
            f"{place}: there is no such folder or file; pass one, voc, coco, shapes, or the name of a hub data set"
        )
    folder, tars = FolderFiles(place), sorted(place.glob("*.tar"))
    if not tars or voc.places(folder) or coco.find(folder):
        return folder
    return TarFiles(tars[0]) if len(tars) == 1 else JoinedFiles([TarFiles(tar) for tar in tars], str(place))


def _from_hub(name: str, boxes: str, train_split: str | None, test_split: str | None, left_out: LeftOut) -> Splits:
    try:
        data = HubData(name, boxes)
    except hub.UnreachableError as error:
        raise DataError(
            f"there is no folder {name!r}, and {error}; pass a folder or file, voc, coco or shapes"
        ) from error
    train, test = _pair(data.splits, train_split, test_split, data.what)
    images = data.read(train, left_out)
    if test is None or test == train:
        return *_divided(images), data.classes, f"{data.what}, {train} divided"
    return images, data.read(test, left_out), data.classes, f"{data.what}, {train} and {test}"


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


def _voc_splits(
    files: Files, folder: str, train_split: str | None, test_split: str | None, left_out: LeftOut, what: str
) -> Splits:
    train, test = _pair(voc.splits(files, folder), train_split, test_split, what)
    images, classes = voc.read(files, folder, train, None, left_out)
    if test is None or test == train:
        return *_divided(images), tuple(classes), f"{what}, {train} divided"
    return images, voc.read(files, folder, test, classes, left_out)[0], tuple(classes), f"{what}, {train} and {test}"


def _coco_splits(
    files: Files, there: dict[str, str], train_split: str | None, test_split: str | None, left_out: LeftOut, what: str
) -> Splits:
    train, test = _pair(list(there), train_split, test_split, what)
    images, classes = coco.read(files, there[train], left_out)
    if test is None or test == train:
        return *_divided(images), classes, f"{what}, {train} divided"
    return images, coco.read(files, there[test], left_out, classes)[0], classes, f"{what}, {train} and {test}"


def _divided(images: list[AnnotatedImage]) -> tuple[list[AnnotatedImage], list[AnnotatedImage]]:
    """Every fifth image for testing, the others for training."""
    rest = [image for number, image in enumerate(images) if number % HELD_OUT != HELD_OUT - 1]
    return rest, images[HELD_OUT - 1 :: HELD_OUT]
