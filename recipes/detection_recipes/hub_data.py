"""Annotated images of the Hugging Face hub: a column of images, and one of objects with their boxes and categories."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from image_recipes.folders import open_image
from PIL import Image

from casc_core.errors import DataError
from casc_lab import hub
from detection_recipes.annotations import AnnotatedImage, LeftOut, Objects

BOXES = ("sizes", "corners")
"""What follows left and top in a box: width and height, or right and bottom."""
_BOX_COLUMNS, _CATEGORY_COLUMNS = (
    ("bbox", "bboxes", "boxes"),
    ("category", "categories", "category_id", "label", "labels"),
)
_CROWD_COLUMNS = ("iscrowd", "is_crowd")
_MOST_UNFIT = 0.1  # of the boxes, where these are what they are said to be


@dataclass(frozen=True)
class HubPicture:
    """An image in a row of a split, whose images are not decoded by `datasets`."""

    split: Any
    row: int
    column: str
    name: str

    def open(self) -> Image.Image:
        return open_image(io.BytesIO(self.content()), self.name)

    def content(self) -> bytes:
        """The file."""
        value = self.split[self.row][self.column]
        if value["bytes"] is not None:
            return bytes(value["bytes"])
        try:
            with open(value["path"], "rb") as file:
                return file.read()
        except (OSError, TypeError) as error:
            raise DataError(f"{self.name}: the image is missing ({error}); fetch the data set again") from error

    def size(self) -> tuple[int, int]:
        """Width and height, from the head of the file."""
        try:
            with Image.open(io.BytesIO(self.content())) as image:
                return image.size
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{self.name}: damaged or not an image ({error}); fetch the data set again") from error


def read(
    repository: str, boxes: str, left_out: LeftOut
) -> tuple[Callable[[str], list[AnnotatedImage]], list[str], tuple[str, ...]]:
    """What reads a split of a hub data set, the names of its splits, and its classes.

    Args:
        repository: its name.
        boxes: one of `BOXES`.
        left_out: counts what cannot be used.

    Raises:
        casc_lab.hub.UnreachableError: it is neither cached nor to be had now. DataError: it has no such columns.
    """
    what = f"hub data set {repository}"
    splits = hub.load(repository)
    features = next(iter(splits.values())).features
    image = next((name for name in features if type(features[name]).__name__ == "Image"), None)
    objects = next((name for name in features if _first(_BOX_COLUMNS, _fields(features[name]))), None)
    if image is None or objects is None:
        missing = "images" if image is None else f"objects with a field {' or '.join(_BOX_COLUMNS)}"
        raise DataError(f"{what}: it has no column of {missing}; its columns are {', '.join(features)}")
    fields = _fields(features[objects])
    category = _first(_CATEGORY_COLUMNS, fields)
    names = getattr(_innermost(fields[category]), "names", None) if category else None
    if names is None:
        raise DataError(f"{what}: its objects have no named categories; their fields are {', '.join(fields)}")
    columns = _Columns(
        what, image, objects, _first(_BOX_COLUMNS, fields) or "", category or "", _first(_CROWD_COLUMNS, fields)
    )
    return lambda split: _split(columns, splits[split], split, len(names), boxes, left_out), list(splits), tuple(names)


@dataclass(frozen=True)
class _Columns:
    """Of a data set: what it is called, its columns, and the fields of its objects."""

    what: str
    image: str
    objects: str
    box: str
    category: str
    crowd: str | None


def _first(names: Sequence[str], there: Any) -> str | None:
    return next((name for name in names if name in there), None)


def _innermost(feature: Any) -> Any:
    """A feature, or that of the items of a list."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    return feature


def _fields(feature: Any) -> Mapping[str, Any]:
    """The fields of objects, which are a list of records or a record of lists; empty if the feature is neither."""
    inner = _innermost(feature)
    return inner if isinstance(inner, Mapping) else {}


def _split(
    columns: _Columns, split: Any, name: str, classes: int, boxes: str, left_out: LeftOut
) -> list[AnnotatedImage]:
    import datasets

    pictures = split.cast_column(columns.image, datasets.Image(decode=False))
    sized = {"width", "height"} <= set(split.column_names)
    wanted = [columns.objects, *(("width", "height") if sized else ())]
    found, unfit, count = [], LeftOut(), 0
    for number, row in enumerate(split.select_columns(wanted)):
        where = f"{columns.what}, {name} row {number}"
        picture = HubPicture(pictures, number, columns.image, where)
        size = (row["width"], row["height"]) if sized else picture.size()
        objects = Objects(size, unfit)
        for place, each in enumerate(_records(row[columns.objects], where), 1):
            box, label, crowd = _object(each, columns, f"{where}, object {place}", classes, boxes)
            objects.add(box, label, f"{where}, object {place}", crowd=crowd)
            count += 1
        found.append(objects.image(where, picture))
    total = sum(unfit.counts.values())
    if total > _MOST_UNFIT * count:
        other = BOXES[1 - BOXES.index(boxes)]
        raise DataError(
            f"{columns.what}: {total:,} of {count:,} boxes do not fit their images if they are read as {boxes} ({unfit}); "
            f"they may be {other}: pass --hub-boxes {other}"
        )
    left_out.join(unfit)
    return found


def _records(value: Any, where: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a row, one by one."""
    if isinstance(value, list):
        yield from value
        return
    lengths = {len(each) for each in value.values() if isinstance(each, list)}
    if len(lengths) > 1:
        raise DataError(f"{where}: its objects have fields of {' and '.join(map(str, sorted(lengths)))} entries")
    for place in range(lengths.pop() if lengths else 0):
        yield {name: each[place] for name, each in value.items() if isinstance(each, list)}


def _object(
    each: Mapping[str, Any], columns: _Columns, where: str, classes: int, boxes: str
) -> tuple[tuple[float, float, float, float], int, bool]:
    """Its edges, its class, and whether it is a crowd."""
    box, label = each[columns.box], each[columns.category]
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(edge, (int, float)) for edge in box):
        raise DataError(f"{where}: {columns.box} must be four numbers; got {box!r:.80}")
    if not isinstance(label, int) or not 0 <= label < classes:
        raise DataError(f"{where}: there is no category {label!r:.40}; there are {classes}")
    left, top, third, fourth = map(float, box)
    edges = (left, top, third, fourth) if boxes == "corners" else (left, top, left + third, top + fourth)
    return edges, label, bool(columns.crowd and each[columns.crowd])
